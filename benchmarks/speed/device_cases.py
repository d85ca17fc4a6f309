"""What is measured on one device, in the order of importance.

Models have random weights, so all that counts is time, memory and shapes. No edit stops early.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch

from editkit import EditedModels, Fact, LanguageModel, Metric, Record, WeightDelta
from editkit.covariance.second_moment import compute_second_moment
from editkit.editing.gradients import LowerBlocks, edit_gradients
from editkit.editing.outcomes import unwatched
from editkit.editing.rome_rows import request_rows, sampled_or_given_contexts
from editkit_benchmarks.atlas import corpus_texts
from editkit_benchmarks.speed import needs
from editkit_benchmarks.speed.limits import Needed, Sizes
from editkit_benchmarks.speed.shapes import SHAPES, Shape, first_records, random_model
from editkit_plugins.counterfact.config import ChoiceConfig
from editkit_plugins.counterfact.metrics import Efficacy, Neighborhood, Paraphrase
from editkit_plugins.learned.config import KeConfig, MendConfig
from editkit_plugins.learned.editor import KeEditor, LearnedEditor, MendEditor
from editkit_plugins.learned.settings import KeSettings, MendSettings
from editkit_plugins.learned.trained import TrainedEditor, new_network
from editkit_plugins.memit.config import MemitConfig
from editkit_plugins.memit.editor import MemitEditor
from editkit_plugins.rome.config import RomeConfig
from editkit_plugins.rome.editor import RomeEditor
from editkit_plugins.text_metrics.config import GenerationConfig
from editkit_plugins.text_metrics.metrics import Fluency
from editkit_plugins.tracing.causal_tracing import CausalTracingLocator
from editkit_plugins.tracing.config import CausalTracingConfig, Kind
from editkit_plugins.tracing.tokenized_facts import tokenize_facts

_KINDS: tuple[Kind, ...] = ("state", "mlp", "attn")
_PROBES = ("rewrite", "paraphrase", "neighborhood")


@dataclasses.dataclass(frozen=True)
class Amounts:
    """How much of each work one run does.

    Attributes:
        edits: ROME edits in a batch.
        records: CounterFact records in a batch.
        memit: Requests of MEMIT, written jointly.
        tokens: Tokens of the corpus for statistics.
        text: Tokens of a generated text.
        steps: Steps of an optimisation.
        learned: Requests of MEND and KE in a batch.
    """

    edits: int = 32
    records: int = 20
    memit: int = 1000
    tokens: int = 100_000
    text: int = 100
    steps: int = 20
    learned: int = 32


FEW = Amounts(edits=2, records=2, memit=4, tokens=600, text=24, steps=2, learned=2)
"""For tests of the measurement itself."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """Some work that is ready to be timed.

    Attributes:
        run: Does it once.
        units: How many units that is.
        needed: The operations that it needs; None if nobody has counted them.
    """

    run: Callable[[], object]
    units: int
    needed: Needed | None = None


class Bench:
    """One device, and at most one model on it.

    Args:
        device: ``cuda`` or ``cpu``.
        shape: Name of the shape of most cases.
        half: Name of the shape of the cases in bfloat16.
        amounts: How much work one run does.
    """

    def __init__(self, device: str, *, shape: str, half: str, amounts: Amounts) -> None:
        self.device, self.amounts = device, amounts
        self.shapes = {"main": shape, "half": half}
        self._model: tuple[str, LanguageModel] | None = None

    def shape(self, which: str) -> Shape:
        """The shape of a role: ``main`` or ``half``."""
        return SHAPES[self.shapes[which]]

    def model(self, which: str = "main") -> LanguageModel:
        """The model of a role; another one is freed first."""
        name = self.shapes[which]
        if self._model is None or self._model[0] != name:
            self._model = None
            gc.collect()
            if self.device.startswith("cuda"):
                torch.cuda.empty_cache()
            self._model = (name, random_model(name, self.device))
        return self._model[1]

    def sizes(self, which: str = "main") -> Sizes:
        """The dimensions of the model of a role."""
        shape = self.shape(which)
        return Sizes.of(shape.config, shape.dtype)

    @property
    def memory_mb(self) -> int:
        """Memory for the activations of edits that are optimised together: half of what is free."""
        if not self.device.startswith("cuda"):
            return 1024
        free, _ = torch.cuda.mem_get_info(self.device)
        return max(1024, int(free) // 2 >> 20)

    @property
    def statistics(self) -> dict[str, Any]:
        """Configuration of a second moment over a small corpus."""
        return {
            "corpus": "editkit_benchmarks.atlas:corpus_texts",
            "corpus_tokens": min(self.amounts.tokens, 20_000),
            "ridge": 1e-3,
        }

    def rome(self, which: str = "main", *, second_moment: bool = True) -> RomeEditor:
        """ROME, prepared: contexts are sampled and C is factorised."""
        model = self.model(which)
        config = RomeConfig(
            layer=self.shape(which).layer,
            steps=self.amounts.steps,
            stop_loss=0.0,
            memory_mb=self.memory_mb,
            second_moment=second_moment,
            **(self.statistics if second_moment else {}),
        )
        editor = RomeEditor(config)
        editor.prepare(model)
        return editor


# ---------------------------------------------------------------- edits


def rome(bench: Bench, *, n: int, which: str = "main") -> Workload:
    """ROME edits of n requests in one batch."""
    model, editor = bench.model(which), bench.rome(which, second_moment=which == "main")
    requests = [record.request for record in first_records(n)]
    return Workload(
        lambda: _edited(editor, model, first_records(n)),
        n,
        _needed_of_edits(bench, editor, requests, which),
    )


def _edited(editor: Any, model: LanguageModel, records: Sequence[Record]) -> list[WeightDelta]:
    with unwatched():  # as in a benchmark
        deltas: list[WeightDelta] = editor.edit(model, [record.request for record in records])
        return deltas


def _needed_of_edits(
    bench: Bench, editor: Any, requests: Sequence[Any], which: str = "main"
) -> Needed:
    model, config = bench.model(which), editor.config
    contexts = sampled_or_given_contexts(model, config)
    rows = [request_rows(model, request, contexts, config) for request in requests]
    layer = config.layer if isinstance(editor, RomeEditor) else config.layers[-1]
    return needs.editing(bench.sizes(which), rows, layer, config.evaluations)


def memit(bench: Bench) -> Workload:
    """MEMIT's joint edit of many requests."""
    model, n = bench.model(), bench.amounts.memit
    config = MemitConfig(
        layers=tuple(bench.shape("main").layers),
        steps=bench.amounts.steps,
        stop_loss=0.0,
        memory_mb=bench.memory_mb,
        **bench.statistics,
    )
    editor = MemitEditor(config)
    editor.prepare(model)
    requests = [record.request for record in first_records(n)]

    def run() -> object:
        with unwatched():
            return editor.edit_jointly(model, requests)

    return Workload(run, n, _needed_of_edits(bench, editor, requests))


class _NewMend(MendEditor):
    """MEND with a network that nobody trained."""

    new: TrainedEditor

    def trained(self, model: LanguageModel) -> TrainedEditor:
        return self.new


class _NewKe(KeEditor):
    """KE with a network that nobody trained."""

    new: TrainedEditor

    def trained(self, model: LanguageModel) -> TrainedEditor:
        return self.new


def learned(bench: Bench, *, method: str) -> Workload:
    """Edits of MEND or KE with a network of the published size."""
    model, n = bench.model(), bench.amounts.learned
    blocks = min(3, model.n_layers)
    settings: MendSettings | KeSettings
    editor: LearnedEditor[Any]
    if method == "mend":
        settings, editor = MendSettings(blocks=blocks), _NewMend(MendConfig())
    else:
        settings, editor = KeSettings(blocks=blocks), _NewKe(KeConfig())
    network = new_network(model, settings)
    requests = [record.request for record in first_records(n)]
    facts = [[each.completion] for each in model.requested(requests)]
    below = LowerBlocks(model, model.n_layers - blocks)
    network.update_statistics(edit_gradients(below, facts, network.paths))
    editor.new = TrainedEditor(network.eval(), settings, {"digest": "untrained"})
    return Workload(lambda: _edited(editor, model, first_records(n)), n)


# ---------------------------------------------------------------- scores and records


def _metrics(bench: Bench, *, generation: bool) -> list[Metric[Any]]:
    metrics: list[Metric[Any]] = [
        metric(ChoiceConfig()) for metric in (Efficacy, Paraphrase, Neighborhood)
    ]
    if generation:
        metrics.append(Fluency(GenerationConfig(tokens=bench.amounts.text)))
    return metrics


def _scored(
    metrics: Sequence[Metric[Any]],
    model: LanguageModel,
    deltas: Sequence[WeightDelta],
    records: Sequence[Record],
) -> object:
    models = EditedModels(model, deltas)
    return [metric.score(models, records) for metric in metrics]


def _needed_of_scores(bench: Bench, records: Sequence[Record], which: str = "main") -> Needed:
    model = bench.model(which)
    tokens = []
    for record in records:
        probes = [probe for kind in _PROBES for probe in record.probes[kind]]
        asked = [(p.prompt, answer) for p in probes for answer in (p.target_new, p.target_true)]
        completions = model.complete([p for p, _ in asked], [a for _, a in asked])
        tokens.append([(each.prompt, each.target) for each in completions])
    return needs.scoring(bench.sizes(which), tokens)


def record(bench: Bench, *, generation: bool) -> Workload:
    """CounterFact records end to end: ROME edits, then all scores, in one batch."""
    model, editor, n = bench.model(), bench.rome(), bench.amounts.records
    records, metrics = first_records(n), _metrics(bench, generation=generation)
    needed = _needed_of_edits(bench, editor, [record.request for record in records])
    needed += _needed_of_scores(bench, records)
    if generation:
        prompts = [prompt for record in records for prompt in record.texts["generation"]]
        ids = [model.encode([prompt])[0].ids for prompt in prompts]
        needed += needs.generating(bench.sizes(), ids, bench.amounts.text, texts=len(ids))
    return Workload(
        lambda: _scored(metrics, model, _edited(editor, model, records), records), n, needed
    )


def scores(bench: Bench, *, which: str) -> Workload:
    """The teacher-forced scores of edited records in one batch."""
    model, records = bench.model(which), first_records(bench.amounts.records)
    deltas = _edited(bench.rome(which, second_moment=False), model, records)
    metrics = _metrics(bench, generation=False)
    return Workload(
        lambda: _scored(metrics, model, deltas, records),
        len(records),
        _needed_of_scores(bench, records, which),
    )


# ---------------------------------------------------------------- traces and statistics


def trace(bench: Bench) -> Workload:
    """A full causal trace of one fact."""
    model, [first] = bench.model(), first_records(1)
    config = CausalTracingConfig(kinds=_KINDS, window=10, noise_level=0.1)
    locator = CausalTracingLocator(config)
    fact = Fact(first.request.sentence, first.request.subject, None)
    [tokenized] = tokenize_facts(model, [fact])
    needed = needs.tracing(
        bench.sizes(),
        tokens=len(tokenized.prompt),
        first=tokenized.subject[0],
        samples=config.samples,
        windows=len(_KINDS) - 1,
        window=config.window,
    )
    return Workload(lambda: locator.maps(model, [fact]), 1, needed)


def statistics(bench: Bench) -> Workload:
    """A second moment over a corpus."""
    model, tokens, layer = bench.model(), bench.amounts.tokens, bench.shape("main").layer
    path = model.path(layer, "mlp_out")

    def run() -> object:
        return compute_second_moment(model, path, corpus_texts(), tokens=tokens)

    needed = needs.statistics(bench.sizes(), tokens=tokens, rows=min(tokens, 4096), layer=layer)
    return Workload(run, tokens, needed)


# ---------------------------------------------------------------- the list


@dataclasses.dataclass(frozen=True)
class DeviceCase:
    """One measurement.

    Attributes:
        unit: What one unit is.
        make: Gets everything ready.
        goal_s: Seconds per unit to reach on one H100 at GPT-2 XL's shape.
        which: The role of the shape.
    """

    unit: str
    make: Callable[[Bench], Workload]
    goal_s: float | None = None
    which: str = "main"


def _batch_of_edits(bench: Bench, which: str) -> Workload:
    return rome(bench, n=bench.amounts.edits, which=which)


CASES: dict[str, DeviceCase] = {
    "rome-batch": DeviceCase(
        "ROME edit, in batches", functools.partial(_batch_of_edits, which="main"), 0.1
    ),
    "rome": DeviceCase("ROME edit, alone", functools.partial(rome, n=1)),
    "record-generation": DeviceCase(
        "CounterFact record with generations, in batches",
        functools.partial(record, generation=True),
        1.0,
    ),
    "record": DeviceCase(
        "CounterFact record without generations, in batches",
        functools.partial(record, generation=False),
    ),
    "trace": DeviceCase("full causal trace", trace),
    "memit": DeviceCase("MEMIT edit, all in one joint edit", memit, 0.18),
    "statistics": DeviceCase("token of statistics", statistics),
    "mend": DeviceCase("MEND edit, in batches", functools.partial(learned, method="mend")),
    "ke": DeviceCase("KE edit, in batches", functools.partial(learned, method="ke")),
    "half-rome": DeviceCase(
        "ROME edit, in batches", functools.partial(_batch_of_edits, which="half"), which="half"
    ),
    "half-scores": DeviceCase(
        "record's teacher-forced scores, in batches",
        functools.partial(scores, which="half"),
        which="half",
    ),
}
"""In the order of importance."""
