"""Published numbers of single settings, printed and drawn beside ours but never averaged with them.

An experiment file has them with their source, model and dataset. Those of another model are marked
as such: only differences between settings can be compared then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from editkit.benchmark.aggregate import SUMMARY, Estimate
from editkit.data_types import Score
from editkit.registry.model_identity import short_name
from editkit.report.sections import Section
from editkit.report.tables import Entry, Line, Table, score_entry
from editkit.results import Cell, Run
from editkit.storage.digests import canonical_json
from editkit_benchmarks.experiments.spec import Names, PublishedNumbers, PublishedSetting

__all__ = ["is_same_model", "published_of_cell", "published_table"]


def published_table(
    name: str, published: Sequence[PublishedNumbers], section: Section, names: Names
) -> Table:
    """Our numbers of each published setting, with the published ones below them.

    Args:
        name: Name of the table.
        published: The published numbers. Editors that the run lacks are left out, and other models
            if there are numbers of the run's.
        section: The run.
        names: Names of values.
    """
    run = section.run
    editors = {cell.editor for cell in run.cells}
    shown = [each for each in published if any(own.editor in editors for own in each.settings)]
    shown = [each for each in shown if is_same_model(each, run)] or shown
    keys = {key for each in shown for own in each.settings for key in own.scores}
    columns = [score for score in (SUMMARY, *run.scores) if score.key in keys]
    lines: list[Line] = []
    for each in shown:
        for setting in each.settings:
            if setting.editor not in editors:
                continue
            title = _title(setting)
            for i, cell in enumerate(run.cells):
                if _matches(setting, cell, names):
                    own = section.estimates[i]
                    entries = [score_entry(score, own.get(score.key)) for score in columns]
                    lines.append(Line((Entry(title), Entry(run.model["name"]), *entries)))
            numbers = [_as_printed(score, setting.scores) for score in columns]
            head = Entry(f"  {title}, published"), Entry(each.model)
            lines.append(Line((*head, *numbers), faint=True))
    notes = [_note(each, run) for each in shown]
    heads = ("setting", "model", *(score.label or score.key for score in columns))
    title = "Published numbers beside ours"
    return Table(name, title, heads, tuple(lines), notes=tuple(notes), keys=2)


def published_of_cell(
    published: Sequence[PublishedNumbers], cell: Cell, key: str, names: Names
) -> Iterator[tuple[PublishedNumbers, float]]:
    """The published numbers of a score in a cell's setting, as printed, each with its source."""
    for each in published:
        for setting in each.settings:
            if key in setting.scores and _matches(setting, cell, names):
                yield each, setting.scores[key]


def is_same_model(published: PublishedNumbers, run: Run) -> bool:
    """Whether published numbers are of the run's model and dataset."""
    same = short_name(published.model) == short_name(run.model["name"])
    return same and published.dataset == run.dataset["name"]


def _matches(setting: PublishedSetting, cell: Cell, names: Names) -> bool:
    if setting.editor != cell.editor:
        return False
    wanted = {
        field: names[field][value]
        if isinstance(value, str) and value in names.get(field, {})
        else value
        for field, value in setting.config.items()
    }
    return all(
        field in cell.config and canonical_json(cell.config[field]) == canonical_json(value)
        for field, value in wanted.items()
    )


def _title(setting: PublishedSetting) -> str:
    texts = [
        value if isinstance(value, str) else f"{field} {value:g}"
        for field, value in setting.config.items()
    ]
    return f"{setting.editor} ({', '.join(texts)})" if texts else setting.editor


def _as_printed(score: Score, numbers: Mapping[str, float]) -> Entry:
    if score.key not in numbers:
        return Entry("-")
    mean = numbers[score.key] / score.scale
    return score_entry(score, Estimate(mean, mean, mean, 0))


def _note(published: PublishedNumbers, run: Run) -> str:
    records = f", {published.records:,} records" if published.records else ""
    what = f"{published.model} on {published.dataset}{records}"
    note = f"Published: {published.source}; {what}."
    if not is_same_model(published, run):
        ours = f"{run.model['name']} on {run.dataset['name']}"
        note += f" Ours are of {ours}: compare differences between settings, not the numbers."
    return f"{note} {published.note}".strip()
