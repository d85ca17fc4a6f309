"""An editor, a locator and two metrics that keep their contracts: small, and none trivial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from editkit import (
    EditedModels,
    Editor,
    EditRequest,
    Fact,
    LanguageModel,
    Localization,
    Locator,
    LowRank,
    Metric,
    ModelMetric,
    Probe,
    Record,
    RequiredStatistic,
    Requirements,
    State,
    WeightDelta,
)
from editkit.editing.edited_models import CandidateQuery, TextQuery
from editkit.models.encoding import Encoding, padded
from editkit.models.running import forward, recording
from editkit.models.shape import ModelShape
from tests.editkit.testing.configs import EditorConfig, SeedConfig


class SoundEditor(Editor[EditorConfig]):
    """Pushes the MLP's output at the subject in a seeded direction."""

    name = "guest"

    def check(self, model: LanguageModel) -> None:
        model.check_layer(self.config.layer)

    def requirements(self, shape: ModelShape, *, requests: int, tokens: int) -> Requirements:
        deltas = 4 * requests * (shape.inner_size + shape.hidden_size)
        path = shape.path(self.config.layer, "mlp_out")
        return Requirements(memory=deltas, statistics=(RequiredStatistic(path, shape.inner_size),))

    def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        return [self.edit_one(model, request) for request in requests]

    def edit_one(self, model: LanguageModel, request: EditRequest) -> WeightDelta:
        key = self.key(model, request)
        left = (key / (key @ key))[:, None]  # (in, 1)
        right = self.config.strength * self.direction(model)[None]  # (1, out)
        return self.delta_of(model, request, LowRank(left, right))

    def delta_of(self, model: LanguageModel, request: EditRequest, change: Any) -> WeightDelta:
        changes = {f"{self.path(model)}.weight": change}
        return self.delta(model, request, changes, notes={"layer": self.config.layer})

    def path(self, model: LanguageModel) -> str:
        return model.path(self.config.layer, "mlp_out")

    def key(self, model: LanguageModel, request: EditRequest) -> Tensor:
        """The MLP's activation at the subject's last token, (in,)."""
        path = self.path(model)
        encoding = self.read(model, request)
        position = encoding.position(request.subject_span, "subject_last")
        with model.frozen(), torch.no_grad(), recording(model, [path]) as seen:
            forward(model, padded([encoding.ids], model.device))
        return seen[path].inputs.reshape(len(encoding), -1)[position].float().clone()

    def read(self, model: LanguageModel, request: EditRequest) -> Encoding:
        [sentence] = model.requested([request])
        return sentence.prompt

    def direction(self, model: LanguageModel) -> Tensor:
        generator = torch.Generator().manual_seed(self.config.seed)
        direction = torch.randn(model.hidden_size, generator=generator)
        return direction / direction.norm()


class SoundSequentialEditor(SoundEditor):
    """Solves for all requests together, and pushes less with every fact that it has written."""

    def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        return [self.edit_jointly(model, [request]) for request in requests]

    def edit_jointly(self, model: LanguageModel, requests: Sequence[EditRequest]) -> WeightDelta:
        return self.step(model, requests, {})[0]

    def step(
        self, model: LanguageModel, requests: Sequence[EditRequest], state: State
    ) -> tuple[WeightDelta, State]:
        written = state.get("written", torch.zeros(()))
        keys = torch.stack([self.key(model, request) for request in requests])  # (n, in)
        pushes = self.direction(model).expand(len(keys), -1) * self.config.strength  # (n, out)
        change = LowRank(torch.linalg.pinv(keys), pushes / (1 + written))
        notes = {"facts": [{"place": place} for place, _ in enumerate(requests)]}
        changes = {f"{self.path(model)}.weight": change}
        delta = self.delta(model, requests, changes, notes=notes)
        return delta, {"written": written + len(requests)}


class SoundLocator(Locator[SeedConfig]):
    """How long the states are after each block."""

    def locate(self, model: LanguageModel, facts: Sequence[Fact]) -> list[Localization]:
        return [self.locate_one(model, fact) for fact in facts]

    def locate_one(self, model: LanguageModel, fact: Fact) -> Localization:
        [encoding] = model.read([fact.prompt], chat=fact.chat)
        model.check_length(encoding)
        scores = self.scores(model, encoding.ids)
        return Localization(
            fact=fact,
            tokens=encoding.texts,
            kind="state",
            scores=tuple(map(tuple, scores.tolist())),
            baselines={"longest": float(scores.max())},
            neurons=((0, 3, 2.0), (1, 2, 1.0)),
        )

    def scores(self, model: LanguageModel, ids: Sequence[int]) -> Tensor:
        """(tokens, layers)"""
        paths = [model.architecture.block(layer) for layer in range(model.n_layers)]
        with model.frozen(), torch.no_grad(), recording(model, paths) as seen:
            forward(model, padded([ids], model.device))
        states = [seen[path].output.reshape(len(ids), -1).float() for path in paths]
        return torch.stack([state.norm(dim=-1) for state in states], dim=1)


class SoundMetric(Metric[SeedConfig]):
    """How likely the new object is at the rewritten prompt, and how much likelier than before."""

    def queries(self, edit: int, record: Record) -> list[CandidateQuery]:
        return [self.query(edit, probe) for probe in record.probes.get("rewrite", ())]

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[Any]:
        queries = [q for edit, record in enumerate(records) for q in self.queries(edit, record)]
        after, before = models.candidate_nll(queries), models.unedited().candidate_nll(queries)
        rows: list[Any] = [{} for _ in records]
        for query, [now], [then] in zip(queries, after, before, strict=True):
            rows[query.edit] = self.row(now, then)
        return rows

    def query(self, edit: int, probe: Probe) -> CandidateQuery:
        answers = (probe.target_new,)
        return CandidateQuery(edit, probe.prompt, answers, probe.separator, probe.chat)

    def row(self, now: float, then: float) -> dict[str, Any]:
        return {
            "guest/score": math.exp(-now),
            "guest/change": math.exp(-now) - math.exp(-then),
            "guest/nll": [now, then],
        }


class SoundModelMetric(ModelMetric[SeedConfig]):
    """How likely a text is to the model, and how much likelier than before."""

    text = "The city of Rome is in Italy."

    def __init__(self, config: SeedConfig) -> None:
        super().__init__(config)
        self.before: dict[str, float] = {}

    def prepare(self, model: LanguageModel) -> None:
        unedited = WeightDelta({}, None, "none", {}, model.fingerprint)
        [self.before[self.key(model)]] = self.nll(EditedModels(model, [unedited]))

    def score(self, models: EditedModels) -> list[Any]:
        before = self.before[self.key(models.model)]
        return [self.row(now, before) for now in self.nll(models)]

    def key(self, model: LanguageModel) -> str:
        return model.fingerprint

    def nll(self, models: EditedModels) -> list[float]:
        queries = [TextQuery(edit, self.text) for edit in range(len(models))]
        return [self.bounded(sum(nll) / len(nll)) for nll in models.text_nll(queries)]

    def bounded(self, nats: float) -> float:
        return 100.0 if math.isnan(nats) else min(nats, 100.0)

    def row(self, now: float, then: float) -> dict[str, Any]:
        return {
            "guest/score": math.exp(-now),
            "guest/change": math.exp(-now) - math.exp(-then),
            "guest/nll": [now, then],
        }
