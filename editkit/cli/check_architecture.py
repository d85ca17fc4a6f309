"""Check that editkit computes on a model what the library computes, rule by rule.

The rules run on a small random model with the structure that config.json in FOLDER describes, and
then on the weights in FOLDER, if there are any. For a model type that is neither in editkit's table
nor in a plugin, an entry for a plugin is proposed; if it breaks a rule, with the fields to change
and the model's modules. The exit code is 1 if a rule is broken.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.cli.arguments import DEFAULT_MODEL, add_alternative, add_examples, add_flag, add_flags
from editkit.errors import ModelError, first_line
from editkit.models.checkpoint import UnusableFile, read_json
from editkit.models.foreign import foreign_kind
from editkit.models.loading import LoadOptions, load_folder, quiet
from editkit.models.lookup import assuming
from editkit.models.text_part import has_text_part, text_part
from editkit.registry.architectures import offered_entry
from editkit.registry.models import known_models, local_folder
from editkit.registry.plugins import BUILT_IN

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from editkit.models.architectures import Architecture
    from editkit.selfcheck.check import Outcome

EXIT_BROKEN = 1
_MARKS = {"ok": "ok", "FAIL": "FAIL", "skipped": "-"}
_FIELDS: Mapping[str, str] = {
    "modules": "correct the path in the message; the paths of a block's parts start at the block",
    "logits": "set final_norm and head to the modules after the last block, and logit_scale to the "
    "factor on the logits",
    "blocks": "set residual_scale to the factor on what a block adds, or attention_adds and "
    "mlp_adds\n    to the modules whose outputs the block adds (norms after attention and MLP)",
    "parallel": "set parallel to the other value",
}
"""Fields to change, by the rule that is broken."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_flag(
        parser,
        "--model",
        default=DEFAULT_MODEL,
        help="a registered name, or a folder with a config.json",
    )
    add_alternative(parser, "--model", metavar="FOLDER")
    add_flags(parser, "--json")
    add_examples(parser, "editkit check-architecture -m ./my-gpt2")


def run(args: argparse.Namespace) -> int:
    """Check, and print the outcome of each rule."""
    from editkit.selfcheck.check import check_config, check_model
    from editkit.selfcheck.proposal import entry_as_code
    from editkit.selfcheck.rules import GRADIENT_TOLERANCE, TOLERANCE

    folder = local_folder(args.model)
    if folder is None:
        raise ModelError(
            f"the folder {args.model!r} does not exist.",
            hint=f"Give a folder with the model's config.json. {known_models()}",
        )
    config = _config(folder, args.model)
    entry, origin = _entry(config)
    checked: list[dict[str, Any]] = []
    say = _nothing if args.json else sys.stdout.write
    if entry is None:
        say(f"{config.model_type}: {origin}\n\n{_modules(config)}")
    else:
        say(
            f"model type {config.model_type}: {origin}\n"
            f"tolerance: {TOLERANCE:.0e} of the largest value, {GRADIENT_TOLERANCE:.0e} for "
            "gradients\n"
        )
        checked.append(_section("a small random model", check_config(config, entry), say))
        if any(folder.glob("*.safetensors")) and _is_ok(checked[0]):
            with assuming(entry):
                model = load_folder(folder, LoadOptions(), name=args.model)
                checked.append(_section("the weights in the folder", check_model(model), say))
        if origin.startswith("not listed"):
            say(_proposed(config, entry_as_code(entry), _failed(checked)))
        elif failed := _failed(checked):
            say("\n" + _what_to_change(failed))
    sound = bool(checked) and all(_is_ok(each) for each in checked)
    if args.json:
        document = {
            "schema": 1,
            "ok": sound,
            "model_type": config.model_type,
            "origin": origin,
            "entry": None if entry is None else entry_as_code(entry),
            "checked": checked,
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    return 0 if sound else EXIT_BROKEN


def _nothing(text: str) -> int:
    return len(text)


def _is_ok(section: dict[str, Any]) -> bool:
    return not _failed([section])


def _failed(sections: Iterable[dict[str, Any]]) -> list[str]:
    """Names of the broken rules."""
    rules = [rule for section in sections for rule in section["rules"]]
    return [rule["rule"] for rule in rules if rule["verdict"] == "FAIL"]


def _proposed(config: PretrainedConfig, code: str, failed: Sequence[str]) -> str:
    """What to do with an entry that editkit proposes for an unlisted family."""
    if not failed:
        return (
            "\nNo entry is needed: models of this family load, with one warning. An entry in a "
            f"plugin\n('editkit explain architectures') removes the warning:\n\n{code}\n"
        )
    return (
        f"\nThis entry failed, so models of this family are refused:\n\n{code}\n\n"
        f"{_what_to_change(failed)}"
        "Offer the changed entry in a plugin ('editkit explain architectures'), and run this\n"
        "command again.\n"
        f"\n{_modules(config)}"
    )


def _what_to_change(failed: Sequence[str]) -> str:
    """The fields of an entry behind the broken rules, the most basic rules first."""
    basic = [rule for rule in failed if rule in _FIELDS]
    if not basic:
        return (
            f"No field of an entry repairs {' and '.join(failed)}: the model computes something "
            "that editkit cannot\nreproduce when it reuses or batches passes.\n"
        )
    lines = []
    if len(failed) > len(basic):
        lines.append(f"Fix {' and '.join(basic)} first; the other rules follow from them.")
    lines += [f"  {rule}: {_FIELDS[rule]}" for rule in basic]
    return "\n".join(lines) + "\n"


def _section(title: str, outcomes: Iterable[Outcome], say: Any) -> dict[str, Any]:
    say(f"\n{title}\n")
    rules = []
    for each in outcomes:
        text = each.summary + (f": {each.reason}" if each.reason else "")
        say(f"  {_MARKS[each.verdict]:4}  {each.rule:10}  {text}\n")
        sys.stdout.flush()
        rules.append({"rule": each.rule, "verdict": each.verdict, "reason": each.reason})
    return {"on": title, "rules": rules}


def _config(folder: Path, shown: str) -> PretrainedConfig:
    from transformers import AutoConfig

    try:
        values = read_json(folder / "config.json")
    except UnusableFile as error:
        message = f"config.json of {shown!r} {error.reason}."
        raise ModelError(message, hint=error.hint) from error
    if has_text_part(values):
        values = text_part(values)
    foreign = foreign_kind(values)
    if foreign is not None:
        raise ModelError(f"model {shown!r} {foreign.reason}.", hint=foreign.hint)
    try:
        with quiet():
            return AutoConfig.for_model(**values)
    except Exception as error:  # configs raise anything
        raise ModelError(
            f"config.json of {shown!r} describes no model of transformers: "
            f"{first_line(error, named=True)}.",
            hint="A model with its own code cannot be used: editkit never runs such code.",
        ) from error


def _entry(config: PretrainedConfig) -> tuple[Architecture | None, str]:
    """The entry to check, and where it is from."""
    from editkit.selfcheck.check import proposal_for

    offered = offered_entry(str(config.model_type))
    if offered is not None:
        entry, source = offered
        own = source.plugin == BUILT_IN
        return entry, "in editkit's table" if own else f"offered by {source}"
    proposal = proposal_for(config)
    if proposal is None:
        return None, "not listed, and no entry of the table has its modules"
    return proposal.entry, f"not listed; its modules are named as those of {proposal.like}"


def _modules(config: PretrainedConfig) -> str:
    """The modules of a model with the shapes of their weights; of equal blocks, the first."""
    from editkit.selfcheck.check import skeleton

    hf = skeleton(config)
    if hf is None:
        return "transformers has no causal language model for this config.\n"
    hidden = tuple(f"{path}." for path in _repeated(hf))
    lines = []
    for path, module in hf.named_modules():
        if path and not f"{path}.".startswith(hidden):
            shown = " ".join(map(str, _shapes(module)))
            lines.append(f"  {path}  {type(module).__name__} {shown}".rstrip())
    return "Its modules (of equal ones in a list, the first):\n" + "\n".join(lines) + "\n"


def _repeated(hf: Any) -> list[str]:
    """Paths of modules in a ModuleList that have the structure of an earlier one there."""
    from torch import nn

    repeated = []
    for path, module in hf.named_modules():
        if not isinstance(module, nn.ModuleList):
            continue
        structures = set()
        for name, child in module.named_children():
            structure = tuple(
                (inner, type(each), _shapes(each)) for inner, each in child.named_modules()
            )
            if structure in structures:
                repeated.append(f"{path}.{name}" if path else name)
            structures.add(structure)
    return repeated


def _shapes(module: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(weight.shape) for _, weight in module.named_parameters(recurse=False))
