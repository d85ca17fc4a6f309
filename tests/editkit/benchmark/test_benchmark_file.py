from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from editkit import ConfigError, UsageError
from editkit.benchmark.spec import Benchmark, Flags, apply_flags, parse_benchmark
from editkit.cli.arguments import parse_sets
from tests.editkit.benchmark.fakes import ROOT

SMALL = Path(__file__).with_name("small.yaml").read_text(encoding="utf-8")


def small() -> Benchmark:
    return parse_benchmark(SMALL, place="small.yaml")


def changed(**flags: object) -> Benchmark:
    return apply_flags(small(), Flags(**flags))[0]


def test_short_forms_and_defaults() -> None:
    benchmark = small()
    assert [editor.name for editor in benchmark.editors] == ["one", "two"]
    assert benchmark.editors[1].preset == "paper"
    assert benchmark.metrics[0].config == {}
    assert (benchmark.limit, benchmark.model.device) == (None, "cpu")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("batch: 5", "batch: many", r"batch: got 'many', expected an integer"),
        ("batch: 5", "batch: 0", r"batch: got 0, expected greater than or equal to 1"),
        ("batch: 5", "bath: 5", r"bath: unknown field"),
        ("- one", "- {name: one, presett: x}", r"editors\.0\.presett: unknown field"),
        ("metrics: [fake, other]", "metrics: [fake, 3]", r"metrics\.1: got 3, expected"),
        ("metrics: [fake, other]", "metrics: []", r"metrics: got \[\]"),
        ("name: small\n", "", r"name: is missing"),
        ("batch: 5", "batch: [5", r"small\.yaml line \d+"),
        (SMALL, "- one", r"expected a mapping"),
    ],
)
def test_errors_name_the_place_in_the_file(before: str, after: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_benchmark(SMALL.replace(before, after), place="small.yaml")


def test_flags_override_the_file() -> None:
    benchmark = changed(model="other", limit=3, seeds=(4, 5), metrics=("other",))
    assert (benchmark.model.name, benchmark.limit, benchmark.seeds) == ("other", 3, (4, 5))
    assert [metric.name for metric in benchmark.metrics] == ["other"]


def test_a_named_editor_keeps_its_values_from_the_file() -> None:
    editors = changed(editors=("two", "rome", "two")).editors
    assert [editor.name for editor in editors] == ["two", "rome"]
    assert editors[0].config == {"strength": 0.75}


def test_another_dataset_loses_the_config_of_the_first() -> None:
    assert changed(dataset="few").dataset.config == {"n": 23}
    assert changed(dataset="other").dataset.config == {}


def test_set_reaches_every_part() -> None:
    sets = [
        "limit=10",
        "model.dtype=bfloat16",
        "seeds=[1, 2]",
        "dataset.n=7",
        "editors.one.strength=5e-1",
        "editors.two.config.fail_on=[1, 2]",
        "editors.one.preset=paper",
        "metrics.fake.scale=2",
    ]
    benchmark, values = apply_flags(small(), Flags(sets=parse_sets(sets)))
    assert (benchmark.limit, benchmark.model.dtype, benchmark.seeds) == (10, "bfloat16", (1, 2))
    assert [editor.preset for editor in benchmark.editors] == ["paper", "paper"]
    assert values == {
        ("dataset", "few"): {"n": 7},
        ("editor", "one"): {"strength": 0.5},
        ("editor", "two"): {"fail_on": [1, 2]},
        ("metric", "fake"): {"scale": 2},
    }


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("limit", "expected a.b=value"),
        ("limt=3", "unknown name, expected one of"),
        ("limit=x", "limit: got 'x', expected an integer"),
        ("editors.rome.layer=2", "no editor 'rome' in this benchmark; it has one, two"),
        ("model.dtyp=x", r"model\.dtyp: unknown field"),
        ("limit=[", "expected YAML"),
    ],
)
def test_an_invalid_set_is_reported(assignment: str, message: str) -> None:
    with pytest.raises((ConfigError, UsageError), match=message):
        changed(sets=parse_sets([assignment]))


def test_the_default_benchmark_is_sound() -> None:
    text = (ROOT / "benchmarks" / "atlas.yaml").read_text(encoding="utf-8")
    benchmark = parse_benchmark(text, place="atlas.yaml")
    names = [editor.name for editor in benchmark.editors]
    learned = ["ke", "ke-cf", "mend", "mend-cf"]
    assert names == ["none", "ft", "ft+l", "attnedit", "kn", *learned, "rome"]
    assert benchmark.limit == 100
    assert yaml.safe_load(text)["model"] == "atlas"


def test_a_sample_is_a_seeded_choice_in_the_order_of_the_dataset() -> None:
    benchmark = parse_benchmark(
        "{name: n, model: atlas, dataset: atlas, limit: 5, metrics: [efficacy], editors: [none]}",
        place="x.yaml",
    )
    records = list(range(100))
    assert benchmark.chosen(records) == (0, 1, 2, 3, 4)
    samples = [benchmark.model_copy(update={"sample": seed}).chosen(records) for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    assert all(list(sample) == sorted({*sample}) and len(sample) == 5 for sample in samples)
    everything = benchmark.model_copy(update={"sample": 0, "limit": 200})
    assert everything.chosen(records) == tuple(records)
