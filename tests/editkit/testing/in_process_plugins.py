"""Suites for plugins that are registered in the process, and the collection of broken ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from editkit import (
    DatasetSpec,
    EditorSpec,
    JudgeSpec,
    LocatorSpec,
    MetricSpec,
    ModelMetricSpec,
    Score,
    hookimpl,
)
from editkit.registry.plugins import Registry
from editkit.testing import Contract
from editkit.testing.checking import CONTRACTS, Outcome, outcome_of
from editkit.testing.contract import rules_of

HERE = "tests.editkit.testing"
SCORES = (Score("guest/score", "GS", summary=True), Score("guest/change", signed=True))
MODEL_SCORES = (Score("guest/score"), Score("guest/change", signed=True))
SOUND: dict[str, dict[str, Any]] = {
    "editor": {
        "factory": f"{HERE}.sound_plugins:SoundEditor",
        "config": f"{HERE}.configs:EditorConfig",
    },
    "locator": {
        "factory": f"{HERE}.sound_plugins:SoundLocator",
        "config": f"{HERE}.configs:SeedConfig",
    },
    "metric": {
        "factory": f"{HERE}.sound_plugins:SoundMetric",
        "config": f"{HERE}.configs:SeedConfig",
        "scores": SCORES,
        "protocol": "guest/v1",
    },
    "model_metric": {
        "factory": f"{HERE}.sound_plugins:SoundModelMetric",
        "config": f"{HERE}.configs:SeedConfig",
        "scores": MODEL_SCORES,
        "protocol": "guest-model/v1",
    },
    "judge": {
        "factory": f"{HERE}.sound_judge:SoundJudge",
        "config": f"{HERE}.configs:SeedConfig",
        "protocol": "guest-judge/v1",
    },
    "dataset": {
        "factory": f"{HERE}.sound_dataset:SoundDataset",
        "config": f"{HERE}.configs:DatasetConfig",
    },
}
_SPECS = {
    "editor": EditorSpec,
    "locator": LocatorSpec,
    "metric": MetricSpec,
    "model_metric": ModelMetricSpec,
    "judge": JudgeSpec,
    "dataset": DatasetSpec,
}
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "editor": {},
    "locator": {},
    "metric": {},
    "model_metric": {},
    "judge": {},
    "dataset": {
        "other_config": {"source": "other"},
        "broken_config": {"source": "broken"},
        "absent_config": {"source": "absent"},
    },
}
ClassT = TypeVar("ClassT", bound=type)


@dataclasses.dataclass(frozen=True)
class Broken:
    """A plugin that breaks a rule.

    Attributes:
        kind: Its kind.
        rule: The rule's method.
        what: What is wrong with it, for the test's name.
        message: Part of the expected message.
        spec: Values of its spec.
        attributes: Attributes of the suite.
    """

    kind: str
    rule: str
    what: str
    message: str = ""
    spec: dict[str, Any] = dataclasses.field(default_factory=dict)
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind}-{self.rule.removeprefix('test_')}-{self.what}"


def collector(kind: str, cases: list[Broken]) -> Callable[..., Callable[[ClassT], ClassT]]:
    """A decorator that collects classes under the rule that they break."""

    def breaks(rule: str, message: str = "", **attributes: Any) -> Callable[[ClassT], ClassT]:
        def collect(cls: ClassT) -> ClassT:
            spec = {"factory": f"{cls.__module__}:{cls.__name__}"}
            cases.append(Broken(kind, f"test_{rule}", cls.__name__, message, spec, attributes))
            return cls

        return collect

    return breaks


def suite_of(kind: str, spec: dict[str, Any], attributes: dict[str, Any]) -> type[Contract]:
    """The suite for a plugin with this spec."""
    values = {"name": "guest", "summary": "a guest", **SOUND[kind], **spec}
    offered = _SPECS[kind](**values)

    class Plugin:
        pass

    hook = f"editkit_{kind}s"

    def offers(self: object) -> Iterable[Any]:
        return [offered]

    offers.__name__ = hook
    setattr(Plugin, hook, hookimpl(offers))
    registry = Registry()
    registry.register(Plugin(), name="guest")
    base = CONTRACTS[kind]
    return type(
        base.__name__,
        (base,),
        {"plugin": "guest", "registry": lambda _: registry, **ATTRIBUTES[kind], **attributes},
    )


def outcome(kind: str, rule: str, spec: dict[str, Any], attributes: dict[str, Any]) -> Outcome:
    """The outcome of one rule."""
    suite = suite_of(kind, spec, attributes)
    [checked] = [each for each in rules_of(suite) if each.method == rule]
    return outcome_of(suite, checked)
