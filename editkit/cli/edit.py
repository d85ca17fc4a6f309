"""Change one fact in a model, and show what else changed.

Prints, before and after the edit: the probability of the old and the new object, what the model
writes, the fact in other words, other subjects with the same object, other facts of the subject,
and unrelated prompts. The model itself stays as it is; --save writes the edit as a patch, a small
file. Several editors are shown side by side.

With --interactive, both models then answer the prompts that you type. With --batch, many facts are
edited, each in its own copy of the model.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.cli.arguments import (
    DEFAULT_MODEL,
    add_alternative,
    add_examples,
    add_flag,
    add_flags,
    path,
)
from editkit.cli.edit_inputs import (
    DEFAULT_EDITOR,
    GivenFact,
    check_writable,
    chosen_editors,
    editor_names,
    given_fact,
    patch_paths,
)
from editkit.cli.edit_outputs import next_steps, page_width, patch_document
from editkit.cli.signals import terminable
from editkit.editing.outcomes import unwatched
from editkit.errors import EditkitError, UsageError
from editkit.progress import show_progress

if TYPE_CHECKING:
    from editkit.patches.patch import Patch

EXIT_NO_EFFECT = 1
_log = logging.getLogger("editkit.edit")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_flag(parser, "--prompt", metavar="TEXT", help=argparse.SUPPRESS)
    add_alternative(
        parser,
        "--prompt",
        metavar="PROMPT",
        help="a sentence up to the object, with the subject in it",
    )
    add_flag(parser, "--subject", metavar="S", help="the subject, spelled as in the prompt")
    add_flag(parser, "--to", metavar="NEW", help="the object to write")
    add_flag(
        parser,
        "--from",
        dest="old",
        metavar="OLD",
        help="the object that the model gives now (default: read from its answer)",
    )
    add_flag(
        parser,
        "--editor",
        help="editors; several are shown side by side",
        shown_default=DEFAULT_EDITOR,
    )
    add_flag(parser, "--model", default=DEFAULT_MODEL)
    add_flag(
        parser,
        "--keep",
        action="append",
        default=[],
        metavar="PROMPT",
        help="a prompt with an answer that should stay; repeatable (default: proposed)",
    )
    add_flag(
        parser,
        "--also",
        action="append",
        default=[],
        metavar="PROMPT",
        help="the fact in other words, up to the object; repeatable (default: proposed)",
    )
    add_flag(
        parser,
        "--save",
        also=("--out", "-o"),
        help="file for the patch; with several editors, {editor} in its name stands for the "
        "editor; with --batch, a folder (default: the patch is not saved)",
    )
    add_flag(parser, "--force", action="store_true", help="replace existing files")
    add_flag(parser, "--interactive", action="store_true", help="then type prompts of your own")
    add_flag(
        parser,
        "--batch",
        type=path,
        metavar="FILE",
        complete="file",
        help="edit the facts of a YAML or JSON file, each by itself",
    )
    add_flags(parser, "--chat", "--separator", "--preset")
    add_flag(
        parser,
        "--set",
        help="set one value of the editor, or of one of several with EDITOR.A=V; repeatable",
    )
    add_flags(parser, "--device", "--dtype", "--json", "--quiet")
    add_examples(
        parser,
        'editkit edit "The capital of Kenya is" --subject Kenya --to Paris',
        'editkit edit "The capital of Kenya is" --subject Kenya --to Paris -e rome,ft,lora',
    )


def run(args: argparse.Namespace) -> int:
    """Edit one fact or many; the exit code."""
    if args.batch is not None:
        from editkit.cli.edit_batch import run_batch

        return run_batch(args)
    if args.interactive and args.json:
        raise UsageError("--interactive prints no JSON.", hint="Drop --json, or --interactive.")
    fact = _fact(args)
    paths = {}
    if args.save is not None:
        paths = patch_paths(args.save, editor_names(args))
        check_writable(paths.values(), force=args.force)
    editors = chosen_editors(args)
    from editkit.patches.making import patches_for
    from editkit.patches.overview import took_effect
    from editkit.registry.models import load_model

    with terminable(), show_progress(quiet=args.quiet), unwatched():
        model = load_model(args.model, dtype=args.dtype, device=args.device)
        patches, failures = patches_for(
            model, fact.request, editors, keep=fact.keep, also=fact.also
        )
        for patch in patches:
            if paths:
                patch.save(paths[patch.editor])
        for name, failure in failures.items():
            if not patches:
                raise failure
            _log.error("%s made no patch: %s", name, failure)
        saved = {patch.editor: paths[patch.editor] for patch in patches if paths}
        if args.json:
            document = _document(args, patches, saved, failures)
            sys.stdout.write(json.dumps(document, indent=2) + "\n")
        else:
            sys.stdout.write(_text(args, patches, saved))
        if args.interactive:
            from editkit.cli.edit_interactive import Conversation, talk

            terminal = sys.stdout.isatty()
            look: Any = {"width": page_width(), "terminal": terminal, "force": args.force}
            talk(Conversation(model, patches, chat=args.chat, **look))
    works = not failures and any(map(took_effect, patches))
    return 0 if works else EXIT_NO_EFFECT


def _fact(args: argparse.Namespace) -> GivenFact:
    """The fact that the flags give, checked.

    Raises:
        UsageError: The prompt, the subject or the new object is missing.
        RequestError: A text cannot be used.
    """
    given = {"PROMPT": args.prompt, "--subject": args.subject, "--to": args.to}
    if missing := [name for name, value in given.items() if value is None]:
        raise UsageError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing.",
            hint='For example: editkit edit "The capital of Kenya is" --subject Kenya --to Paris',
        )
    return given_fact(
        prompt=args.prompt,
        subject=args.subject,
        to=args.to,
        old=args.old,
        keep=args.keep,
        also=args.also,
        separator=args.separator,
        chat=args.chat,
    )


# ---------------------------------------------------------------- output


def _text(args: argparse.Namespace, patches: Sequence[Patch], saved: Mapping[str, Path]) -> str:
    from editkit.patches.rendering import comparison_text, patch_text

    look: Any = {"width": page_width(), "terminal": sys.stdout.isatty()}
    text = patch_text(patches[0], **look) if len(patches) == 1 else comparison_text(patches, **look)
    return f"{text}\n{next_steps(saved.values(), args.model)}"


def _document(
    args: argparse.Namespace,
    patches: Sequence[Patch],
    saved: Mapping[str, Path],
    failures: Mapping[str, EditkitError],
) -> dict[str, Any]:
    return {
        "schema": 1,
        "model": args.model,
        "request": patches[0].requests[0].to_dict(),
        "patches": [patch_document(patch, saved.get(patch.editor)) for patch in patches],
        "failures": {name: str(failure) for name, failure in failures.items()},
    }
