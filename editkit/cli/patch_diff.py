"""Show what differs between two patches: fact, editor, settings, weights, origin, checks."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from editkit.cli.arguments import add_examples, add_flag, path
from editkit.cli.patch_files import conflicts_data, names_of, read_patches
from editkit.safe_text import one_line, shortened
from editkit.storage.digests import plain
from editkit.terminal import aligned, columns, rendered, wrapped

if TYPE_CHECKING:
    from editkit.patches.combining import PatchDifference
    from editkit.patches.content import Check

_LONGEST_VALUE = 60


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    add_flag(
        parser, "files", nargs=2, type=path, metavar="FILE", complete="file", help="two patches"
    )
    add_flag(parser, "--json")
    add_examples(parser, "editkit patch diff kenya.safetensors kenya-2.safetensors")


def run(args: argparse.Namespace) -> int:
    """Show the difference."""
    from editkit.patches.combining import diff

    patches = read_patches(args.files)
    difference = diff(*patches)
    if args.json:
        document = {
            "schema": 1,
            "files": list(map(str, args.files)),
            **difference.to_dict(),
            "conflicts": conflicts_data(names_of(args.files), patches),
        }
        sys.stdout.write(json.dumps(plain(document), indent=2) + "\n")
    else:
        sys.stdout.write(_text(difference, names_of(args.files)))
    return 0


def _text(difference: PatchDifference, names: Sequence[str]) -> str:
    rows = [("", *names)]
    rows += [
        (each.name, _shown(each.first), _shown(each.second)) for each in difference.differences
    ]
    for weight in difference.weights:
        forms = (
            f"{form}, norm {norm:.4g}" if form else "-"
            for form, norm in zip(weight.forms, weight.norms, strict=True)
        )
        rows.append((weight.name, *forms))
    rows.append(("norm", *(f"{norm:.4g}" for norm in difference.norms)))
    for one, other in difference.checks:
        if _answers(one) != _answers(other):
            rows.append(
                (f"{one.question.role}: {one.question.prompt}", _answers(one), _answers(other))
            )
    equal = sum(_answers(one) == _answers(other) for one, other in difference.checks)
    n = len(difference.checks)
    lines = [
        "The same edit, bit for bit." if difference.same_edit else "Two edits.",
        *_relation(difference),
        f"{equal} of {n} common checks have equal answers" if n else "no common checks",
    ]
    return _table(rows) + "\n" + "".join(map(wrapped, lines))


def _relation(difference: PatchDifference) -> Iterator[str]:
    """How far the changes are equal, and whether the facts contradict each other."""
    for each in difference.conflicts:
        if each.kind == "contradiction":
            yield f"They contradict each other: {each.details}."
        elif each.kind == "same fact":
            yield f"They {each.details}."
    if difference.overlap is None:
        yield "not comparable: different models"
    else:
        cosine = "-" if difference.cosine is None else f"{difference.cosine:.3f}"
        yield f"cosine of the changes {cosine}, overlap {difference.overlap:.3f}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Both values of everything; on a terminal, all columns wrap."""
    if not sys.stdout.isatty():
        return aligned(rows)
    from rich.text import Text

    head, *body = rows
    table = columns(head, [[Text(one_line(text)) for text in row] for row in body])
    return rendered(table, terminal=True, width=shutil.get_terminal_size().columns)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False)
    return shortened(one_line(text), _LONGEST_VALUE)


def _answers(check: Check) -> str:
    """The edited model's answers: probabilities and its text."""
    shares = (
        f"{answer} {probability:.1%}"
        for answer, probability in zip(
            check.question.answers, check.after.probabilities, strict=False
        )
    )
    return shortened(f"{', '.join(shares)}; {' '.join(check.after.text.split())!r}", _LONGEST_VALUE)
