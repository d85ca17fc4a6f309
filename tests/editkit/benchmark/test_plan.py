from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit import Config, ConfigError, DatasetError, MetricSpec, PluginError, Score, hookimpl
from editkit.benchmark.plan import Plan, cut, make_plan
from editkit.benchmark.planned_metrics import PlannedMetric
from editkit.benchmark.spec import Flags, apply_flags, parse_benchmark
from editkit.cli.arguments import parse_sets
from editkit.regimes import Regime
from editkit.registry.plugins import Registry
from tests.editkit.benchmark import fakes
from tests.editkit.benchmark.test_benchmark_file import SMALL


def registry(version: str = "1.0") -> Registry:
    made = Registry()
    made.register(fakes, name="fake", distribution="fake-plugin", version=version)
    return made


def plan(
    *sets: str,
    shard: tuple[int, int] = (1, 1),
    version: str = "1.0",
    model: str = "f",
    **flags: Any,
) -> Plan:
    benchmark, values = apply_flags(
        parse_benchmark(SMALL, place="small.yaml"), Flags(sets=parse_sets(sets), **flags)
    )
    return make_plan(
        benchmark,
        registry(version),
        place="small.yaml",
        values=values,
        shard=shard,
        **fakes.lookups(model),
    )


def fingerprints(made: Plan) -> list[str]:
    return [planned.cell.fingerprint for planned in made.cells]


def cases(made: Plan) -> list[list[int]]:
    return [[record.case_id for record in batch.records] for batch in made.batches]


def test_cells_are_editors_times_seeds() -> None:
    made = plan(seeds=(0, 1))
    assert [(p.cell.editor, p.cell.seed) for p in made.cells] == [
        ("one", 0), ("one", 1), ("two", 0), ("two", 1),
    ]  # fmt: skip
    assert len(set(fingerprints(made))) == 4
    cell = made.cells[3].cell
    assert cell.config["strength"] == 0.75
    assert cell.sources["strength"] == "small.yaml"
    assert (cell.config["seed"], cell.sources["seed"]) == (1, "run seed")
    assert cell.params["editor.strength"] == 0.75
    assert cell.params["editor.fail_on"] == "[]"


def test_an_editor_can_have_regimes_and_seeds_of_its_own() -> None:
    def cells(**flags: Any) -> list[tuple[str, int, str]]:
        text = SMALL + "  - {name: two, config: {strength: 1}, edits: {joint: 2}, seeds: [3, 4]}\n"
        benchmark, values = apply_flags(parse_benchmark(text, place="small.yaml"), Flags(**flags))
        made = make_plan(benchmark, registry(), values=values, **fakes.lookups("f"))
        return [(p.cell.editor, p.cell.seed, p.cell.regime.label) for p in made.cells]

    assert cells() == [
        ("one", 0, "independent"),
        ("two", 0, "independent"),
        ("two", 3, "joint 2"),
        ("two", 4, "joint 2"),
    ]
    flags = cells(edits=[Regime.joint(3)], seeds=[0])
    assert flags == [("one", 0, "joint 3"), ("two", 0, "joint 3"), ("two", 0, "joint 3")]
    assert cells(sets={"edits": {"joint": 3}, "seeds": [0]}) == flags


@pytest.mark.parametrize(
    "other",
    [
        {"version": "1.1"},
        {"model": "g"},
        {"limit": 22},
        {"metrics": ("fake",)},
        {"seeds": (1,)},
    ],
)
def test_the_fingerprint_covers_everything_that_results_depend_on(other: dict[str, Any]) -> None:
    assert not set(fingerprints(plan())) & set(fingerprints(plan(**other)))


@pytest.mark.parametrize(
    "assignment",
    [
        "batch=6",
        "model.dtype=bfloat16",
        "model.attention=eager",
        "metrics.fake.scale=2",
        "dataset.n=22",
    ],
)
def test_the_fingerprint_covers_values(assignment: str) -> None:
    assert not set(fingerprints(plan())) & set(fingerprints(plan(assignment)))


def test_the_fingerprint_ignores_everything_else() -> None:
    assert fingerprints(plan()) == fingerprints(plan("model.device=cuda", "name=other"))
    assert fingerprints(plan()) == fingerprints(plan("model.device_map=auto"))
    assert fingerprints(plan()) == fingerprints(plan("model.attention=null"))
    assert fingerprints(plan())[1:] == fingerprints(plan(editors=("two",)))
    assert fingerprints(plan()) == fingerprints(plan("dataset.rejected=2"))


def test_shards_take_whole_batches_and_keep_the_fingerprint() -> None:
    whole = plan()
    shards = [plan(shard=(i, 3)) for i in (1, 2, 3)]
    assert all(fingerprints(shard) == fingerprints(whole) for shard in shards)
    assert sorted(b.index for shard in shards for b in shard.batches) == list(range(5))
    for shard in shards:
        for batch in shard.batches:
            assert batch == whole.batches[batch.index]
    assert sum(shard.n_records(shard.cells[0].cell) for shard in shards) == 23


@given(st.integers(0, 40), st.integers(1, 12))
def test_batches_cover_the_records_in_order(n: int, size: int) -> None:
    records = fakes.FakeDataset(fakes.DatasetConfig(n=n)).load().records
    batches = cut(records, size)
    assert tuple(record for batch in batches for record in batch.records) == records
    assert all(len(batch.records) == size for batch in batches[:-1])
    assert [batch.index for batch in batches] == list(range(len(batches)))


def test_an_editor_may_be_repeated_only_with_another_preset() -> None:
    twice = SMALL.replace("- one", "- one\n  - {name: one, preset: published}")
    with pytest.raises(ConfigError, match="'one' with seed 0 occurs twice"):
        make_plan(parse_benchmark(twice, place="x"), registry(), place="x", **fakes.lookups("f"))
    other = parse_benchmark(twice.replace("published", "paper"), place="x")
    assert len(make_plan(other, registry(), place="x", **fakes.lookups("f")).cells) == 3


def test_errors_of_plugins_and_records_are_reported() -> None:
    with pytest.raises(PluginError, match="no editor named 'won'"):
        plan(editors=("won",))
    with pytest.raises(DatasetError, match="no usable record"):
        plan("dataset.n=0")
    with pytest.raises(ConfigError, match=r"editors\.1\.config\.strength: got 'x'"):
        make_plan(
            parse_benchmark(SMALL.replace("0.75", "x"), place="x"),
            registry(),
            **fakes.lookups("f"),
        )


# ---------------------------------------------------------------- scores and protocols by config


class TracedConfig(Config):
    """A configuration that decides about scores and procedure."""

    stop: str = "line"
    """Where texts end."""
    kinds: tuple[str, ...] = ("a", "b")
    """Kinds of scores."""
    texts: Path | None = None
    """A file of texts."""


def scores_of(config: TracedConfig) -> tuple[Score, ...]:
    if "broken" in config.kinds:
        raise ValueError("no such kind")
    return tuple(Score(f"traced/{kind}", kind.upper()) for kind in config.kinds)


def not_scores_of(config: TracedConfig) -> list[str]:
    return [*config.kinds]


class _TracedPlugin:
    def __init__(self, protocol: str, reference: str) -> None:
        self.protocol, self.reference = protocol, reference

    @hookimpl
    def editkit_metrics(self) -> list[MetricSpec]:
        return [
            MetricSpec(
                "traced",
                f"{fakes.HERE}:OtherMetric",
                f"{__name__}:TracedConfig",
                "depends on its configuration",
                (Score("traced/all", "T"),),
                self.protocol,
                scores_of=f"{__name__}:{self.reference}",
            )
        ]


def traced(
    *sets: str, protocol: str = "mine/{stop}/v1", reference: str = "scores_of"
) -> PlannedMetric:
    made = registry()
    made.register(_TracedPlugin(protocol, reference), name="t", distribution="t", version="1")
    benchmark, values = apply_flags(
        parse_benchmark(SMALL, place="small.yaml"),
        Flags(sets=parse_sets(sets), metrics=("traced",)),
    )
    lookups = fakes.lookups("f")
    [metric] = make_plan(benchmark, made, place="small.yaml", values=values, **lookups).metrics
    return metric


def test_a_configuration_names_scores_and_the_procedure() -> None:
    assert traced().protocol == traced().describe()["protocol"] == "mine/line/v1"
    assert [score.key for score in traced().scores] == ["traced/all", "traced/a", "traced/b"]
    other = traced("metrics.traced.stop=end", "metrics.traced.kinds=[c]")
    assert other.protocol == "mine/end/v1"
    assert [score.key for score in other.scores] == ["traced/all", "traced/c"]


def test_a_file_is_in_the_procedures_name_by_its_content(tmp_path: Path) -> None:
    protocol = "mine/{texts}/v1"
    assert traced(protocol=protocol).protocol == "mine/none/v1"
    names = {}
    for name, text in (("a.txt", "one"), ("b.txt", "two"), ("c.txt", "one")):
        (tmp_path / name).write_text(text)
        names[name] = traced(f"metrics.traced.texts={tmp_path / name}", protocol=protocol).protocol
    assert names["a.txt"] == names["c.txt"] != names["b.txt"]
    assert re.fullmatch("mine/[0-9a-f]{12}/v1", names["a.txt"])


@pytest.mark.parametrize("protocol", ["mine/{length}/v1", "mine/{", "mine/{}/v1", "{stop.x}"])
def test_a_protocol_with_an_unknown_field_is_the_plugins_error(protocol: str) -> None:
    with pytest.raises(PluginError, match="metric 'traced' has the protocol"):
        traced(protocol=protocol)


def test_a_metric_that_cannot_name_its_scores_is_the_plugins_error() -> None:
    with pytest.raises(PluginError, match="could not name its scores: ValueError: no such kind"):
        traced("metrics.traced.kinds=[broken]")
    with pytest.raises(PluginError, match="names 'a' among its scores, expected a Score"):
        traced(reference="not_scores_of")
    with pytest.raises(PluginError, match="has no 'nothing'"):
        traced(reference="nothing")
