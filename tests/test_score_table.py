"""The table of columns in docs/metrics.md is what the plugins declare, word by word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from editkit.benchmark.aggregate import SUMMARY
from editkit.registry.plugins import default_registry

PAGE = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"


def declared() -> list[tuple[str, Any]]:
    """Metric and score, for the scores of installed metrics that have a column."""
    registry = default_registry()
    offers = [*registry.offers("metric"), *registry.offers("model_metric")]
    ours = [offer for offer in offers if offer.source.distribution == "editkit"]
    specs: list[Any] = [offer.spec for offer in ours]
    return [
        (spec.name, score)
        for spec in sorted(specs, key=lambda spec: str(spec.name))
        for score in spec.scores
        if score.label
    ]


def test_every_column_has_a_name_and_a_description() -> None:
    every = declared()
    assert len(every) > 40
    for metric, score in [("", SUMMARY), *every]:
        assert score.name, (metric, score.key)
        assert score.description, (metric, score.key)
        assert not score.description.endswith("."), (metric, score.key)
        assert len(score.name) <= 40, (metric, score.key)


def test_the_documentation_lists_every_column() -> None:
    rows = [("", SUMMARY), *declared()]
    lines = [
        f"| {score.label} | {f'`{metric}`' if metric else ''} | `{score.key}` | {score.name} | "
        f"{score.description} |\n"
        for metric, score in rows
    ]
    table = "| column | metric | score | in words | what it is |\n|---|---|---|---|---|\n"
    assert table + "".join(lines) in PAGE.read_text(encoding="utf-8")
