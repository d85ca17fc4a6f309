"""Show what differs between two patches: fact, editor, settings, weights, origin, checks."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from editkit.cli.arguments import add_flag, path
from editkit.cli.patch_files import names_of, read_patches
from editkit.safe_text import one_line, shortened
from editkit.storage.digests import plain
from editkit.terminal import aligned

if TYPE_CHECKING:
    from editkit.patches.combining import PatchDifference
    from editkit.patches.content import Check

_LONGEST_VALUE = 60


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    parser.add_argument("files", nargs=2, type=path, metavar="FILE", help="file of a patch")
    add_flag(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Show the difference."""
    from editkit.patches.combining import diff

    difference = diff(*read_patches(args.files))
    if args.json:
        document = {"schema": 1, "files": list(map(str, args.files)), **difference.to_dict()}
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
    cosine = "-" if difference.cosine is None else f"{difference.cosine:.3f}"
    equal = sum(_answers(one) == _answers(other) for one, other in difference.checks)
    n = len(difference.checks)
    lines = [
        "The same edit, bit for bit." if difference.same_edit else "Two edits.",
        f"cosine of the changes {cosine}, overlap {difference.overlap:.3f}",
        f"{equal} of {n} common checks have equal answers" if n else "no common checks",
    ]
    return aligned(rows) + "\n" + "".join(f"{line}\n" for line in lines)


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
