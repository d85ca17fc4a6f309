"""Check that editkit computes on a model what the library computes, rule by rule.

The rules run on a small random model with the structure that config.json in FOLDER describes, and
then on the weights in FOLDER, if there are any. For a model type that is neither in editkit's table
nor in a plugin, an entry for a plugin is proposed. The exit code is 1 if a rule is broken.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.cli.arguments import add_flags
from editkit.errors import ModelError, first_line
from editkit.models.checkpoint import UnusableFile, read_json
from editkit.models.loading import LoadOptions, load_folder, quiet
from editkit.models.lookup import assuming
from editkit.registry.architectures import offered_entry
from editkit.registry.models import known_models, local_folder
from editkit.registry.plugins import BUILT_IN

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from editkit.models.architectures import Architecture
    from editkit.selfcheck.check import Outcome

EXIT_BROKEN = 1
_MARKS = {"ok": "ok", "FAIL": "FAIL", "skipped": "-"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("folder", metavar="FOLDER", help="a model's folder, or a registered name")
    add_flags(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Check, and print the outcome of each rule."""
    from editkit.selfcheck.check import check_config, check_model
    from editkit.selfcheck.proposal import entry_as_code
    from editkit.selfcheck.rules import GRADIENT_TOLERANCE, TOLERANCE

    folder = local_folder(args.folder)
    if folder is None:
        raise ModelError(
            f"there is no folder {args.folder!r}.",
            hint=f"Give a folder with the model's config.json. {known_models()}",
        )
    config = _config(folder, args.folder)
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
                model = load_folder(folder, LoadOptions(), name=args.folder)
                checked.append(_section("the weights in the folder", check_model(model), say))
        if origin.startswith("not listed"):
            code = entry_as_code(entry)
            say(f"\nAn entry for a plugin (docs/architectures.md):\n\n{code}\n")
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
    return all(rule["verdict"] != "FAIL" for rule in section["rules"])


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
        with quiet():
            return AutoConfig.for_model(**values)
    except UnusableFile as error:
        reason, hint = error.reason, error.hint
    except Exception as error:  # configs raise anything
        reason = f"describes no model of transformers: {first_line(error, named=True)}"
        hint = "A model with its own code cannot be used: editkit never runs such code."
    raise ModelError(f"config.json of {shown!r} {reason}.", hint=hint)


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
    """The modules of a model, its first block only, with the shapes of their weights."""
    from editkit.selfcheck.check import skeleton

    hf = skeleton(config)
    if hf is None:
        return "transformers has no causal language model for this config.\n"
    lines = []
    for path, module in hf.named_modules():
        numbers = [part for part in path.split(".") if part.isdigit()]
        if not path or any(number != "0" for number in numbers):
            continue
        shapes = [tuple(weight.shape) for _, weight in module.named_parameters(recurse=False)]
        lines.append(f"  {path}  {type(module).__name__} {' '.join(map(str, shapes))}".rstrip())
    return "Its modules (of each list, the first):\n" + "\n".join(lines) + "\n"
