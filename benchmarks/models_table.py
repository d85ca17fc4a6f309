"""Write docs/models.md: what works on which family of models.

    python -m editkit_benchmarks.models_table > docs/models.md

Each family runs as a random model of four narrow layers: the rules of ``editkit
check-architecture``, and one edit by each editor, with the values for the model ``tiny``.
"""

from __future__ import annotations

import logging
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from editkit import EditRequest, make_editor
from editkit.errors import EditkitError
from editkit.models.language_model import LanguageModel
from editkit.selfcheck.check import check_config, check_model
from editkit.testing import ARCHITECTURES, tiny_model

RULES = {
    "loads": ("modules", "logits", "blocks", "parallel", "padding"),
    "ROME: fast = plain": ("prefix", "gradients", "edits"),
    "trace: fast = plain": ("recorded",),
    "windows": ("windows",),
}
"""Columns from the self-check, with the rules that each one needs."""
EDITORS: Mapping[str, Mapping[str, Any]] = {
    "rome": {"second_moment": False},
    "ft": {},
    "attnedit": {"layer": 1},
    "kn": {},
}
"""Columns from an edit, with values: the delta is finite, and changes a weight."""
REQUEST = EditRequest("{} is the capital of", "Paris", "Italy", "France")
_MODEL = "tiny"  # editors have values for a model of this name

HEAD = f"""\
# Supported models

Written by `python -m editkit_benchmarks.models_table > docs/models.md`. Each family runs as a
random model of four narrow layers. `fast = plain` compares the computation that editors and traces
use with the plain forward pass of transformers, within 1e-4 of the largest value. The columns after
`windows` make one edit. [architectures.md](architectures.md) explains the rules and how to add a
family.

| model type | {" | ".join([*RULES, *EDITORS])} |
|{"---|" * (1 + len(RULES) + len(EDITORS))}
"""


def rules_of(model: LanguageModel) -> Iterator[str]:
    """Cells of the self-check: on the tiny model, and windows on one that has them."""
    verdicts = {each.rule: each.verdict for each in check_model(model)}
    if verdicts.get("windows") == "skipped":
        verdicts |= {
            each.rule: each.verdict
            for each in check_config(model.hf.config)
            if each.rule == "windows"
        }
    for rules in RULES.values():
        seen = [verdicts.get(rule, "FAIL") for rule in rules]
        yield "FAIL" if "FAIL" in seen else "yes" if "ok" in seen else "-"


def edit_of(name: str, model: LanguageModel) -> str:
    """The cell of an edit: ``yes``, or why the editor refuses the model."""
    try:
        editor = make_editor(name, _MODEL, **EDITORS[name])
        editor.check(model)
        editor.prepare(model)
        [delta] = editor.edit(model, [REQUEST])
    except EditkitError as error:
        return "no: " + textwrap.shorten(error.message, 60, placeholder="...")
    return "yes" if delta.is_finite() and delta.norm() > 0 else "FAIL"


def row_of(architecture: str) -> str:
    """One row of the table."""
    model = tiny_model(architecture)
    cells = [*rules_of(model), *(edit_of(name, model) for name in EDITORS)]
    return f"| `{architecture}` | {' | '.join(cells)} |\n"


def main() -> int:
    """Print the page."""
    logging.getLogger("editkit").setLevel(logging.ERROR)  # tiny random models need not converge
    sys.stdout.write(HEAD)
    for architecture in sorted(ARCHITECTURES):
        sys.stdout.write(row_of(architecture))
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
