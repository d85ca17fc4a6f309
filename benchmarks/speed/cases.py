"""The cases: for each, a fast and a plain way that return the same numbers."""

from __future__ import annotations

import dataclasses
import functools
import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from editkit import (
    EditedModels,
    Fact,
    LanguageModel,
    LowRank,
    OpenQuestion,
    Probe,
    Record,
    WeightDelta,
    applied,
)
from editkit.editing.edited_models import CandidateQuery, GenerationQuery
from editkit.editing.generation import continued, draws, text_of
from editkit.editing.open_questions import free_answers
from editkit.editing.rome_rows import request_rows, sampled_or_given_contexts
from editkit.editing.rome_value import RankOneUpdate
from editkit.editing.stops import Stop
from editkit.models.weight_layout import input_major
from editkit_benchmarks.atlas.dataset import AtlasConfig, AtlasDataset
from editkit_benchmarks.speed import learning, needs
from editkit_benchmarks.speed.limits import Needed, Sizes, total
from editkit_benchmarks.speed.plain import probe_nll
from editkit_benchmarks.speed.shapes import atlas, first_records, gpt2_small, smollm2
from editkit_benchmarks.speed.timing import Work
from editkit_plugins.kn.attribution import Query, attribute
from editkit_plugins.kn.config import AttributionConfig
from editkit_plugins.learned.training.data import RecordSource
from editkit_plugins.rome.config import RomeConfig
from editkit_plugins.rome.editor import RomeEditor
from editkit_plugins.tracing.causal_tracing import Probabilities, trace_fact
from editkit_plugins.tracing.config import CausalTracingConfig, Kind
from editkit_plugins.tracing.corruption import draw_noise
from editkit_plugins.tracing.tokenized_facts import tokenize_facts

_TRACED: tuple[Kind, ...] = ("state", "mlp", "attn")
_KINDS = ("rewrite", "paraphrase", "neighborhood")
_CORPUS: dict[str, Any] = {
    "corpus": "editkit_benchmarks.atlas:corpus_texts",
    "corpus_tokens": 50_000,
}


@dataclasses.dataclass(frozen=True)
class Ways:
    """Two ways of the same work, with the units of work that each does.

    ``needed`` counts what the fast way's units cannot do without; None if nobody has counted it.
    """

    fast: Work
    n_fast: int
    plain: Work
    n_plain: int
    needed: Needed | None = None


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: Name on the command line.
        title: Description of both ways.
        goal: The ratio to reach.
        make: Builds the fast and the plain way.
    """

    name: str
    title: str
    goal: float
    make: Callable[[], Ways]


def _probes(record: Record) -> list[Probe]:
    return [probe for kind in _KINDS for probe in record.probes[kind]]


def _queries(edit: int, record: Record) -> list[CandidateQuery]:
    return [
        CandidateQuery(edit, probe.prompt, (probe.target_new, probe.target_true))
        for probe in _probes(record)
    ]


def _scoring() -> Ways:
    model, records = atlas(), first_records(32)
    config = RomeConfig(layer=1, weight_decay=0.1, ridge=1e-3, **_CORPUS)
    deltas = RomeEditor(config).edit(model, [record.request for record in records])

    def together() -> list[float]:
        queries = [q for edit, record in enumerate(records) for q in _queries(edit, record)]
        return [x for row in EditedModels(model, deltas).candidate_nll(queries) for x in row]

    def one_at_a_time() -> list[float]:
        numbers = []
        for delta, record in zip(deltas, records, strict=True):
            with applied(model, delta):
                numbers += [x for pair in probe_nll(model, _probes(record)) for x in pair]
        return numbers

    needed = needs.scoring(
        Sizes.of(model.hf.config), [_completions(model, record) for record in records]
    )
    return Ways(together, len(records), one_at_a_time, len(records), needed)


def _completions(
    model: LanguageModel, record: Record
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Tokens of each prompt and answer of a record."""
    asked = [
        (probe.prompt, answer)
        for probe in _probes(record)
        for answer in (probe.target_new, probe.target_true)
    ]
    completions = model.complete([p for p, _ in asked], [a for _, a in asked])
    return [(each.prompt, each.target) for each in completions]


def _rome(model: Callable[[], LanguageModel], *, layer: int, n_fast: int, n_plain: int) -> Ways:
    from tests.plugins.rome.oracle import solve_plainly  # needs a checkout

    requests = [record.request for record in first_records(n_fast)]
    # Atlas writes the contexts, so that both models see the same texts. Without an early stop all
    # edits do the same work.
    texts = sampled_or_given_contexts(atlas(), RomeConfig())[1:]
    values: dict[str, Any] = {
        "layer": layer,
        "weight_decay": 0.1,
        "stop_loss": 0.0,
        "second_moment": False,
    }
    config = RomeConfig(**values, contexts=texts)
    editor = RomeEditor(config)
    rows = [request_rows(model(), request, ("", *texts), config) for request in requests]
    needed = needs.editing(Sizes.of(model().hf.config), rows, layer, config.evaluations)

    def run(solve: Callable[..., Sequence[RankOneUpdate]], n: int) -> list[float]:
        updates = solve(editor, model(), requests[:n])
        return [loss.total for update in updates[:n_plain] for loss in update.value.losses]

    return Ways(
        (lambda: run(RomeEditor.solve, n_fast)),
        n_fast,
        (lambda: run(solve_plainly, n_plain)),
        n_plain,
        needed,
    )


def _attribution(model: Callable[[], LanguageModel], *, n_fast: int, n_plain: int) -> Ways:
    from tests.plugins.kn.oracle import attribute_plainly  # needs a checkout

    requests = [record.request for record in first_records(n_fast)]
    true = [str(request.target_true) for request in requests]
    completions = model().complete([request.sentence for request in requests], true)
    queries = [Query(completion.prompt, completion.target) for completion in completions]

    def run(attributed: Callable[..., Sequence[torch.Tensor]], n: int) -> list[float]:
        tables = attributed(model(), queries[:n], AttributionConfig())
        return [float(x) for table in tables[:n_plain] for x in table.flatten()]

    return Ways(
        (lambda: run(attribute, n_fast)),
        n_fast,
        (lambda: run(attribute_plainly, n_plain)),
        n_plain,
    )


def _prompts(of: Callable[[], LanguageModel]) -> Ways:
    model, records = of(), first_records(4)
    empty = [WeightDelta({}, record.request, "none", {}, model.fingerprint) for record in records]

    def shared_prefix() -> list[float]:
        numbers: list[float] = []
        for delta, record in zip(empty, records, strict=True):
            rows = EditedModels(model, [delta]).candidate_nll(_queries(0, record))
            numbers += [x for row in rows for x in row]
        return numbers

    def whole_texts() -> list[float]:
        return [x for r in records for pair in probe_nll(model, _probes(r)) for x in pair]

    parts = [
        needs.scoring(Sizes.of(model.hf.config), [_completions(model, record)])
        for record in records
    ]
    return Ways(shared_prefix, len(records), whole_texts, len(records), total(parts))


def _training(method: str) -> Ways:
    model, settings, n = atlas(), learning.settings_of(method), 3
    source = RecordSource(model, AtlasDataset(AtlasConfig(split="train")).load().records, 0.1)
    batches = [
        source.draw(
            random.Random(i),
            n=settings.edits_per_step,
            locality=settings.locality,
            related=settings.related,
        )
        for i in range(n)
    ]
    network = learning.network_of(model, method, batches[0])

    def run(step: learning.Step) -> list[float]:
        return learning.steps(model, network, batches, step)

    together = learning.Together(model, settings.blocks)
    return Ways((lambda: run(together)), n, (lambda: run(learning.one_at_a_time)), n)


def _generation(
    model: Callable[[], LanguageModel], *, records: int, n_plain: int, tokens: int
) -> Ways:
    """Texts of several edited models together, and one at a time with cached keys and values."""
    chosen = first_records(records)
    deltas = [_random_edit(model(), record.case_id) for record in chosen]
    queries = [
        GenerationQuery(edit, prompt, f"{record.case_id}/{place}")
        for edit, record in enumerate(chosen)
        for place, prompt in enumerate(record.texts["generation"])
    ]

    def together() -> list[float]:
        texts = EditedModels(model(), deltas).generate(queries, tokens=tokens)
        return [_number(text) for text in texts[:n_plain]]

    def one_at_a_time() -> list[float]:
        numbers = []
        for query in queries[:n_plain]:
            with applied(model(), deltas[query.edit]), model().frozen(), torch.no_grad():
                prompt = model().encode([query.prompt])[0].ids
                uniform = draws([(0, query.name, query.prompt)], tokens)
                [ids] = continued(model(), [prompt], uniform, top_k=5)
            numbers.append(_number(text_of(model().tokenizer, ids)))
        return numbers

    prompts = [model().encode([query.prompt])[0].ids for query in queries]
    sizes = Sizes.of(model().hf.config)
    needed = needs.generating(sizes, prompts, tokens, texts=len(prompts))
    return Ways(together, len(queries), one_at_a_time, n_plain, needed)


def _free_texts(n_plain: int) -> Ways:
    """Answers of several edited models together, and one at a time by transformers.

    Both stop as soon as the sentence has ended.
    """
    model, records, stop = atlas(), first_records(20), Stop("sentence", 30)
    deltas = [_random_edit(model, record.case_id) for record in records]
    questions = [
        (edit, OpenQuestion(probe.prompt, ((probe.target_new,),)))
        for edit, record in enumerate(records)
        for probe in _probes(record)
    ]
    asked = questions[:: len(questions) // n_plain][:n_plain]

    def together() -> list[float]:
        texts = dict(
            zip(questions, free_answers(EditedModels(model, deltas), questions, stop), strict=True)
        )
        return [_number(texts[each]) for each in asked]

    def one_at_a_time() -> list[float]:
        numbers = []
        for edit, question in asked:
            with applied(model, deltas[edit]):
                text = _written(model, question.prompt, stop)
            numbers.append(_number(text))
        return numbers

    return Ways(together, len(questions), one_at_a_time, len(asked))


def _written(model: LanguageModel, prompt: str, stop: Stop) -> str:
    """What transformers writes after a prompt, up to a stop."""
    ids = torch.tensor([model.read([prompt])[0].ids])

    def text(tokens: torch.Tensor) -> str:
        new = tokens[0, ids.shape[1] :]
        return str(model.tokenizer.decode(new, skip_special_tokens=True))

    def is_past(tokens: torch.Tensor, _: Any, **__: Any) -> torch.Tensor:
        return torch.tensor([stop.reached(text(tokens))])

    written = model.hf.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=stop.tokens,
        pad_token_id=model.tokenizer.eos_token_id,
        stopping_criteria=[is_past],
    )
    return stop.cut(text(written))


def _random_edit(model: LanguageModel, seed: int) -> WeightDelta:
    """A small rank-one edit of one layer."""
    name = f"{model.path(1, 'mlp_out')}.weight"
    inner, hidden = input_major(
        model.module(name.removesuffix(".weight")), model.hf.get_parameter(name)
    ).shape
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(inner, 1, generator=generator) / inner
    right = torch.randn(1, hidden, generator=generator)
    return WeightDelta({name: LowRank(left, right)}, None, "random", {}, model.fingerprint)


def _number(text: str) -> float:
    """A checksum that differs for different texts."""
    return float(zlib.crc32(text.encode()))


def _tracing(
    model: Callable[[], LanguageModel], *, kinds: Sequence[Kind], n_fast: int, n_plain: int
) -> Ways:
    from tests.plugins.tracing.oracle import trace_site_by_site  # needs a checkout

    config = CausalTracingConfig(kinds=tuple(kinds), window=10, noise_level=0.1)
    requests = [record.request for record in first_records(n_fast)]
    facts = [Fact(r.sentence, r.subject, r.target_true) for r in requests]

    def run(n: int, trace: Callable[..., Probabilities]) -> list[float]:
        numbers: list[float] = []
        for i, fact in enumerate(tokenize_facts(model(), facts[:n])):
            p = trace(model(), fact, draw_noise(model(), fact, config, 0.1), config, kinds)
            if i < n_plain:
                numbers += [x for kind in kinds for x in p.restored[kind].flatten().tolist()]
        return numbers

    needed = total(
        needs.tracing(
            Sizes.of(model().hf.config),
            tokens=len(fact.prompt),
            first=fact.subject[0],
            samples=config.samples,
            windows=len(kinds) - 1,
            window=config.window,
            answer=len(fact.answer),
        )
        for fact in tokenize_facts(model(), facts)
    )
    return Ways(
        (lambda: run(n_fast, trace_fact)),
        n_fast,
        (lambda: run(n_plain, trace_site_by_site)),
        n_plain,
        needed,
    )


CASES = (
    Case(
        "scoring-atlas",
        "atlas: 32 edited models scored together against one at a time",
        5,
        _scoring,
    ),
    Case(
        "rome-atlas",
        "atlas: ROME with reuse and batching against plain",
        8,
        functools.partial(_rome, atlas, layer=1, n_fast=20, n_plain=3),
    ),
    Case(
        "rome-gpt2-small",
        "GPT-2-small shape: ROME with reuse and batching against plain",
        8,
        functools.partial(_rome, gpt2_small, layer=4, n_fast=8, n_plain=1),
    ),
    Case(
        "rome-smollm2",
        "SmolLM2: ROME with reuse and batching against plain",
        8,
        functools.partial(_rome, smollm2, layer=3, n_fast=4, n_plain=1),
    ),
    Case(
        "kn-atlas",
        "atlas: integrated gradients of several facts together against one step at a time",
        4,
        functools.partial(_attribution, atlas, n_fast=20, n_plain=3),
    ),
    Case(
        "kn-gpt2-small",
        "GPT-2-small shape: integrated gradients together against one step at a time",
        4,
        functools.partial(_attribution, gpt2_small, n_fast=8, n_plain=1),
    ),
    Case(
        "trace-atlas",
        "atlas: a full trace with reuse against one site a forward pass",
        15,
        functools.partial(_tracing, atlas, kinds=_TRACED, n_fast=4, n_plain=1),
    ),
    Case(
        "trace-gpt2-small",
        "GPT-2-small shape: a full trace with reuse against one site a forward pass",
        8,
        functools.partial(_tracing, gpt2_small, kinds=_TRACED, n_fast=1, n_plain=1),
    ),
    Case(
        "trace-smollm2",
        "SmolLM2: a full trace with reuse against one site a forward pass",
        8,
        functools.partial(_tracing, smollm2, kinds=_TRACED, n_fast=1, n_plain=1),
    ),
    Case(
        "train-mend",
        "atlas: a training step of MEND, all edits together against one at a time",
        4,
        functools.partial(_training, "mend"),
    ),
    Case(
        "train-ke",
        "atlas: a training step of KE, all edits together against one at a time",
        4,
        functools.partial(_training, "ke"),
    ),
    Case(
        "prompts-atlas",
        "atlas: a record's prompts with shared prefix against whole texts",
        1,
        functools.partial(_prompts, atlas),
    ),
    Case(
        "prompts-gpt2-small",
        "GPT-2-small shape: a record's prompts with shared prefix against whole texts",
        3,
        functools.partial(_prompts, gpt2_small),
    ),
    Case(
        "prompts-smollm2",
        "SmolLM2: a record's prompts with shared prefix against whole texts",
        3,
        functools.partial(_prompts, smollm2),
    ),
    Case(
        "generation-atlas",
        "atlas: texts of 20 edited models together against one prompt at a time",
        5,
        functools.partial(_generation, atlas, records=20, n_plain=10, tokens=100),
    ),
    Case(
        "generation-gpt2-small",
        "GPT-2-small shape: texts of 4 edited models together against one prompt at a time",
        5,
        functools.partial(_generation, gpt2_small, records=4, n_plain=3, tokens=48),
    ),
    Case(
        "free-atlas",
        "atlas: answers of 20 edited models together against one prompt at a time",
        10,
        functools.partial(_free_texts, 26),
    ),
)
