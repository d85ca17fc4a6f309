"""A world without torch: a plugin with editors, metrics and a dataset, and a tiny fake model."""

from __future__ import annotations

import dataclasses
import math
import random
import time
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from editkit import (
    BenchmarkSpec,
    Config,
    Dataset,
    DatasetSpec,
    Editor,
    EditorSpec,
    EditRequest,
    Metric,
    MetricSpec,
    Probe,
    Record,
    Records,
    RejectedRecord,
    Score,
    hookimpl,
)
from editkit.registry import model_identity
from editkit.registry.model_identity import ModelIdentity

ROOT = Path(__file__).resolve().parents[3]
HERE = "tests.editkit.benchmark.fakes"

# ---------------------------------------------------------------- a plugin


class EditorConfig(Config):
    strength: float = 1.0
    """How hard it edits."""
    seed: int = 0
    """Seed of its noise."""
    sleep: float = 0.0
    """Seconds per request."""
    fail_on: tuple[int, ...] = ()
    """Subjects that make it raise."""
    nan_on: tuple[int, ...] = ()
    """Subjects whose delta is not finite."""
    mutate: bool = False
    """Whether it breaks the contract."""
    stuck: bool = False
    """Whether it says that it did not converge."""
    broken_prepare: bool = False
    """Whether it cannot be prepared."""


@dataclasses.dataclass
class FakeDelta:
    value: float
    notes: Mapping[str, Any]

    def is_finite(self) -> bool:
        return math.isfinite(self.value)


class FakeEditor(Editor[EditorConfig]):
    def prepare(self, model: Any) -> None:
        if self.config.broken_prepare:
            raise RuntimeError("no statistics")

    def edit(self, model: Any, requests: Sequence[EditRequest]) -> list[Any]:
        if self.config.mutate:
            model.hf.weights[0] += 1.0
        deltas = []
        for request in requests:
            time.sleep(self.config.sleep)
            number = int(request.subject.rpartition(" ")[2])
            if number in self.config.fail_on:
                raise ValueError(f"subject {number} is not to my taste")
            noise = random.random()
            value = math.nan if number in self.config.nan_on else self.config.strength * noise
            verdict = {"converged": False, "advice": "be patient"} if self.config.stuck else {}
            deltas.append(FakeDelta(value, {"loss": noise, **verdict}))
        return deltas


class ShortEditor(FakeEditor):
    def edit(self, model: Any, requests: Sequence[EditRequest]) -> list[Any]:
        return super().edit(model, requests[:-1])


class MetricConfig(Config):
    scale: float = 1.0
    """Factor of the score."""
    nan_on: tuple[int, ...] = ()
    """Cases whose score is not finite."""


class FakeMetric(Metric[MetricConfig]):
    def score(self, models: Any, records: Sequence[Record]) -> list[Any]:
        return [
            {
                "fake/score": math.nan
                if record.case_id in self.config.nan_on
                else min(1.0, self.config.scale * delta.value),
                "fake/magnitude": delta.value - 0.5,
                "fake/prompts": [delta.value] * 3,
            }
            for delta, record in zip(models.deltas, records, strict=True)
        ]


class OtherMetric(Metric[MetricConfig]):
    def score(self, models: Any, records: Sequence[Record]) -> list[Any]:
        return [{"other/score": 0.25 + 0.5 * (record.case_id % 2)} for record in records]


class CorpusMetric(Metric[MetricConfig]):
    """Needs texts of the dataset, and keeps texts of its own."""

    def prepare(self, texts: Mapping[str, Sequence[str]]) -> None:
        if "broken" in texts["reference"]:
            raise RuntimeError("no words")
        self.words = set(texts["reference"])

    def score(self, models: Any, records: Sequence[Record]) -> list[Any]:
        return [
            {"words/score": len(self.words) / 10, "words": [f"seed {models.seed}", "and more"]}
            for _ in records
        ]


class DatasetConfig(Config):
    n: int = 23
    """How many records."""
    texts: tuple[str, ...] = ()
    """Reference texts of the dataset."""
    rejected: int = 0
    """How many broken ones."""


class FakeDataset(Dataset[DatasetConfig]):
    def load(self) -> Records:
        records = tuple(
            Record(
                case_id=1000 - i,
                request=EditRequest("{} lives in", f"subject {i}", "Rome"),
                probes={"rewrite": (Probe(f"subject {i} lives in", "Paris", "Rome"),)},
            )
            for i in range(self.config.n)
        )
        rejected = tuple(
            RejectedRecord(str(i), "prompt", "is empty") for i in range(self.config.rejected)
        )
        return Records(records, "whole", rejected, {"reference": self.config.texts})


@hookimpl
def editkit_editors() -> list[EditorSpec]:
    presets = {"published": {}, "paper": {"strength": 0.5}}
    return [
        EditorSpec(name, f"{HERE}:{factory}", f"{HERE}:EditorConfig", "edits nothing", presets)
        for name, factory in (
            ("one", "FakeEditor"),
            ("two", "FakeEditor"),
            ("short", "ShortEditor"),
        )
    ]


@hookimpl
def editkit_metrics() -> list[MetricSpec]:
    fake = (
        Score("fake/score", "FS", summary=True, description="share of facts"),
        Score("fake/magnitude", "FM", signed=True),
    )
    other = (Score("other/score", "OS", summary=True),)
    config = f"{HERE}:MetricConfig"
    return [
        MetricSpec("fake", f"{HERE}:FakeMetric", config, "made up", fake, "fake/v1"),
        MetricSpec("other", f"{HERE}:OtherMetric", config, "made up, too", other, "other/v1"),
        MetricSpec(
            "words",
            f"{HERE}:CorpusMetric",
            config,
            "depends on a corpus",
            (Score("words/score", "WS", scale=1.0),),
            "words/v1",
            corpus="reference",
        ),
    ]


@hookimpl
def editkit_datasets() -> list[DatasetSpec]:
    return [DatasetSpec("few", f"{HERE}:FakeDataset", f"{HERE}:DatasetConfig", "a few records")]


@hookimpl
def editkit_benchmarks() -> list[BenchmarkSpec]:
    return [BenchmarkSpec("small", "tests.editkit.benchmark:small.yaml", "two editors")]


# ---------------------------------------------------------------- a model


class FakeNetwork:
    def __init__(self) -> None:
        self.weights = [1.0, 2.0, 3.0]


class FakeWeights:
    def __init__(self, network: FakeNetwork) -> None:
        self.network = network

    def state(self) -> tuple[float, ...]:
        return tuple(self.network.weights)

    def checksums(self) -> dict[str, bytes]:
        return {"weights": str(self.network.weights).encode()}


class FakeModel:
    def __init__(self, name: str, dtype: str) -> None:
        self.name = name
        self.hf = FakeNetwork()
        self.weights = FakeWeights(self.hf)
        self.fingerprint = fingerprint_of(name)
        self._dtype = dtype

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "revision": None,
            "fingerprint": self.fingerprint,
            "dtype": self._dtype,
            "device": "cpu",
            "n_parameters": 3,
        }


class FakeEditedModels:
    def __init__(
        self,
        model: FakeModel,
        deltas: Sequence[FakeDelta],
        *,
        seed: int,
        known: object = None,
        weights_known: bool = False,
    ) -> None:
        self.model, self.deltas, self.seed = model, deltas, seed


class FakeEffects:
    def __init__(self, model: FakeModel) -> None:
        pass

    def of(self, delta: FakeDelta) -> dict[str, Any]:
        return {"delta_norm": abs(delta.value)}


def fingerprint_of(name: str, *, revision: str | None = None) -> str:
    return f"fingerprint of {name}"


def load_model(name: str, *, dtype: str, **options: str | None) -> FakeModel:
    loaded.append(name)
    return FakeModel(name, dtype)


def n_layers_of(name: str, **options: Any) -> int | None:
    return None


def identity_of(name: str, **options: Any) -> ModelIdentity:
    return ModelIdentity(name)


def lookups(fingerprint: str) -> dict[str, Any]:
    """Lookups of :func:`editkit.benchmark.plan.make_plan` for a model without files."""
    return {
        "fingerprint_of": lambda choice: fingerprint,
        "n_layers_of": lambda choice: None,
        "identity_of": lambda choice: ModelIdentity(choice.name),
    }


loaded: list[str] = []
"""Every model that was loaded in this process."""


@dataclasses.dataclass
class FakeDiagnosis:
    checks: tuple[()] = ()
    sound: bool = True


def fake_modules() -> dict[str, types.ModuleType]:
    """What stands in for the modules that need torch."""
    models = types.ModuleType("editkit.registry.models")
    identity = types.ModuleType("editkit.registry.model_identity")
    edited = types.ModuleType("editkit.editing.edited_models")
    vars(models).update(
        load_model=load_model,
        fingerprint_of=fingerprint_of,
        n_layers_of=n_layers_of,
    )
    vars(identity).update({**vars(model_identity), "identity_of": identity_of})
    effects = types.ModuleType("editkit.editing.delta_effects")
    vars(edited).update(EditedModels=FakeEditedModels)
    vars(effects).update(Effects=FakeEffects)
    checks = types.ModuleType("editkit.doctor.diagnose")
    vars(checks).update(
        PlannedEditor=lambda *_, **__: None,
        diagnose=lambda *_, **__: FakeDiagnosis(),
    )
    return {
        "editkit.doctor.diagnose": checks,
        "editkit.registry.models": models,
        "editkit.registry.model_identity": identity,
        "editkit.editing.edited_models": edited,
        "editkit.editing.delta_effects": effects,
    }


# ---------------------------------------------------------------- distributions


def write_distribution(
    folder: Path, name: str, plugins: Mapping[str, str], version: str = "1.0"
) -> None:
    """An installed distribution with entry points, as pip would leave it."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    lines = "".join(f"{plugin} = {target}\n" for plugin, target in plugins.items())
    (info / "entry_points.txt").write_text(f"[editkit]\n{lines}", encoding="utf-8")
