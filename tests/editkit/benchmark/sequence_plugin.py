"""Editors whose every bit depends on the model, the state and the random numbers of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from editkit import (
    Config,
    Dataset,
    DatasetSpec,
    Editor,
    EditorSpec,
    EditRequest,
    JointEditor,
    LowRank,
    Metric,
    MetricSpec,
    ModelMetric,
    ModelMetricSpec,
    Probe,
    Record,
    Records,
    Score,
    WeightDelta,
    hookimpl,
)
from editkit.editing.edited_models import CandidateQuery
from editkit.models.weight_layout import input_major

HERE = "tests.editkit.benchmark.sequence_plugin"
STEPS: list[tuple[str, ...]] = []
"""Subjects of every step that was computed in this process."""

BROKEN = "\ud800 is not to my\u2028taste"
"""The message of a fact that fails: with half of a surrogate pair, and a line separator."""


class StepConfig(Config):
    fail_on: tuple[str, ...] = ()
    """Subjects that cannot be edited."""
    nan_on: tuple[str, ...] = ()
    """Subjects with an edit that is not finite."""


def update(model: Any, requests: Sequence[EditRequest], config: StepConfig, taken: Tensor) -> Any:
    STEPS.append(tuple(request.subject for request in requests))
    if any(request.subject in config.fail_on for request in requests):
        raise ValueError(BROKEN)
    path = model.path(1, "mlp_out")
    weight = input_major(model.module(path), model.module(path).weight).detach()  # (D, H)
    noise = torch.randn(weight.shape[0], len(requests))
    if any(request.subject in config.nan_on for request in requests):
        noise[0] = torch.nan
    right = (weight.T @ noise).T / (1 + taken)  # (n, H), not contiguous
    return {f"{path}.weight": LowRank(0.01 * noise, right)}


class OneByOne(Editor[StepConfig]):
    name = "one-by-one"

    def edit(self, model: Any, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        taken = torch.zeros(())
        return [
            self.delta(
                model,
                request,
                update(model, [request], self.config, taken),
                notes={"advice": f"about\u2028{request.subject}"},
            )
            for request in requests
        ]


class Stateful(JointEditor[StepConfig]):
    name = "stateful"

    def edit_jointly(self, model: Any, requests: Sequence[EditRequest]) -> WeightDelta:
        return self.step(model, requests, {})[0]

    def step(
        self, model: Any, requests: Sequence[EditRequest], state: Mapping[str, Tensor]
    ) -> tuple[WeightDelta, Mapping[str, Tensor]]:
        taken = state.get("taken", torch.zeros(3, 2).T)
        if state and not taken.is_contiguous():
            raise ValueError("a resumed run would get the state in another layout")
        changes = update(model, requests, self.config, taken.sum())
        return self.delta(model, requests, changes), {"taken": (taken.T + len(requests)).T}


class BadState(Stateful):
    name = "bad-state"

    def step(
        self, model: Any, requests: Sequence[EditRequest], state: Mapping[str, Tensor]
    ) -> tuple[WeightDelta, Any]:
        return super().step(model, requests, {})[0], {"facts": len(requests)}


class Loss(Metric[Config]):
    def score(self, models: Any, records: Sequence[Record]) -> list[Any]:
        queries = [
            CandidateQuery(i, record.request.sentence, (record.request.target_new,))
            for i, record in enumerate(records)
        ]
        return [{"loss": loss} for (loss,) in models.candidate_nll(queries)]


class Size(ModelMetric[Config]):
    def score(self, models: Any) -> list[Any]:
        return [{"size": delta.norm()} for delta in models.deltas]


class Towns(Dataset[Config]):
    def load(self) -> Records:
        return Records(
            tuple(
                Record(
                    case_id=i,
                    request=EditRequest("{} is in the city of", f"Tower {i}", "Paris", "Rome"),
                    probes={"rewrite": (Probe(f"Tower {i} is in the city of", "Paris", "Rome"),)},
                )
                for i in range(12)
            ),
            "towns",
        )


def tower(n: int, new: str = "Paris") -> EditRequest:
    return EditRequest("{} is in the city of", f"Tower {n}", new, "Rome")


CHAINS = (
    (tower(0), tower(1)),
    (tower(1), tower(2)),  # shares an edit
    (tower(3),),
    (tower(0, "Oslo"), tower(4)),  # contradicts the first record
    (tower(1),),  # has nothing new
    (tower(5), tower(6), tower(5)),  # repeats an edit
)
"""The edits of each record of the dataset ``chains``."""


class Chains(Dataset[Config]):
    def load(self) -> Records:
        return Records(
            tuple(
                Record(
                    i,
                    first,
                    {
                        "rewrite": tuple(
                            Probe(e.sentence, "Rome", e.target_new) for e in (first, *also)
                        )
                    },
                    also=tuple(also),
                )
                for i, (first, *also) in enumerate(CHAINS)
            ),
            "chains",
        )


@hookimpl
def editkit_editors() -> list[EditorSpec]:
    config = f"{HERE}:StepConfig"
    both = ("independent", "joint", "sequential")
    return [
        EditorSpec("one-by-one", f"{HERE}:OneByOne", config, "one fact at a time"),
        EditorSpec("stateful", f"{HERE}:Stateful", config, "has a state", regimes=both),
        EditorSpec("bad-state", f"{HERE}:BadState", config, "has no tensors", regimes=both),
    ]


@hookimpl
def editkit_metrics() -> list[MetricSpec]:
    score = (Score("loss", "L", summary=True),)
    return [MetricSpec("loss", f"{HERE}:Loss", "editkit:Config", "of the target", score, "l/v1")]


@hookimpl
def editkit_model_metrics() -> list[ModelMetricSpec]:
    score = (Score("size", "N"),)
    return [ModelMetricSpec("size", f"{HERE}:Size", "editkit:Config", "the norm", score, "s/v1")]


@hookimpl
def editkit_datasets() -> list[DatasetSpec]:
    return [
        DatasetSpec("towns", f"{HERE}:Towns", "editkit:Config", "twelve towers"),
        DatasetSpec("chains", f"{HERE}:Chains", "editkit:Config", "records with several edits"),
    ]
