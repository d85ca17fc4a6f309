"""The metrics of a model as a whole, against numbers computed here from plain forward passes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from editkit import (
    ConfigError,
    Dense,
    EditedModels,
    LanguageModel,
    LowRank,
    ModelMetric,
    PromptContext,
    Rows,
    WeightDelta,
    applied,
)
from editkit.editing.changes import Change
from editkit.testing.samples import RECORDS, random_edits
from editkit_plugins.model_health.change_norm import ChangeNorm
from editkit_plugins.model_health.config import (
    ChangeNormConfig,
    DistinctConfig,
    DriftConfig,
    PerplexityConfig,
    SentencePerplexityConfig,
)
from editkit_plugins.model_health.distinct import Distinct, distinct
from editkit_plugins.model_health.drift import Drift, percentile
from editkit_plugins.model_health.perplexity import Perplexity
from editkit_plugins.model_health.sentence_perplexity import SentencePerplexity
from tests.tiny import tiny

TEXTS = ("The city of Rome is in Italy.", "Paris", "The mother tongue is French, they say.")
PATH = "transformer.h.1.mlp.c_proj"


def written(folder: Path, *lines: str) -> str:
    path = folder / "texts.txt"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def changed(model: LanguageModel, **changes: Change) -> WeightDelta:
    named = {f"{PATH}.{field}": change for field, change in changes.items()}
    return WeightDelta(named, None, "test", {}, model.fingerprint)


def log_p(model: LanguageModel, text: str) -> tuple[list[int], Tensor]:
    """The tokens, and log probabilities of the next token after each: (T, V)."""
    ids = model.tokenizer(text)["input_ids"]
    with torch.no_grad():
        logits = model.hf.eval()(torch.tensor([ids])).logits[0].double()
    return ids, torch.log_softmax(logits, dim=-1)


def nll(model: LanguageModel, text: str) -> list[float]:
    ids, scores = log_p(model, text)
    return [-float(scores[place, token]) for place, token in enumerate(ids[1:])]


def score(metric: ModelMetric[Any], model: LanguageModel, *deltas: WeightDelta) -> Any:
    metric.prepare(model)
    return metric.score(EditedModels(model, deltas))


# ---------------------------------------------------------------- perplexity


def test_perplexity_is_that_of_plain_forward_passes(tmp_path: Path) -> None:
    model = tiny()
    edits = random_edits(model, RECORDS)[:2]
    corpus = written(tmp_path, *TEXTS)
    rows = score(Perplexity(PerplexityConfig(corpus=corpus)), model, *edits)
    before = [value for text in TEXTS for value in nll(model, text)]
    for edit, row in zip(edits, rows, strict=True):
        with applied(model, edit):
            after = [nll(model, text) for text in TEXTS]
        flat = [value for text in after for value in text]
        expected = math.exp(sum(flat) / len(flat))
        assert row["perplexity/value"] == pytest.approx(expected, rel=1e-4)
        ratio = expected / math.exp(sum(before) / len(before))
        assert row["perplexity/ratio"] == pytest.approx(ratio, rel=1e-4)
        means = [sum(text) / len(text) for text in after if text]
        assert row["perplexity/text_nll"] == pytest.approx(means, rel=1e-4)


def test_only_the_first_texts_and_tokens_are_read(tmp_path: Path) -> None:
    model = tiny()
    config = PerplexityConfig(corpus=written(tmp_path, *TEXTS), texts=1, tokens=4)
    [row] = score(Perplexity(config), model, changed(model))
    expected = sum(nll(model, TEXTS[0])[:3]) / 3
    assert math.log(row["perplexity/value"]) == pytest.approx(expected, rel=1e-5)


def test_texts_longer_than_the_context_are_cut(tmp_path: Path) -> None:
    model = tiny(context_length=8)
    config = PerplexityConfig(corpus=written(tmp_path, "The city of Rome. " * 20))
    [row] = score(Perplexity(config), model, changed(model))
    ids = model.tokenizer("The city of Rome. " * 20)["input_ids"][:8]
    expected = sum(nll(model, model.tokenizer.decode(ids))) / 7
    assert math.log(row["perplexity/value"]) == pytest.approx(expected, rel=1e-4)


def test_a_model_past_the_threshold_has_collapsed(tmp_path: Path) -> None:
    model = tiny()
    [edit, *_] = random_edits(model, RECORDS)
    corpus = written(tmp_path, *TEXTS)
    [row] = score(Perplexity(PerplexityConfig(corpus=corpus)), model, edit)
    ratio = row["perplexity/ratio"]
    assert ratio > 1.02
    for threshold, collapsed in ((ratio * 0.99, 1.0), (ratio * 1.01, 0.0)):
        config = PerplexityConfig(corpus=corpus, threshold=threshold)
        rows = score(Perplexity(config), model, edit, changed(model))
        assert [each["perplexity/collapsed"] for each in rows] == [collapsed, 0.0]


@pytest.mark.parametrize("lines", [(), ("a", "b")], ids=["empty", "single-tokens"])
def test_a_corpus_without_predictions_is_refused(lines: Sequence[str], tmp_path: Path) -> None:
    metric = Perplexity(PerplexityConfig(corpus=written(tmp_path, *lines)))
    with pytest.raises(ConfigError, match="has no text"):
        metric.prepare(tiny())


def test_the_mean_of_perplexities_is_not_the_perplexity_per_token(tmp_path: Path) -> None:
    model = tiny()
    edits = random_edits(model, RECORDS)[:2]
    corpus = written(tmp_path, *TEXTS)
    config = SentencePerplexityConfig(corpus=corpus, threshold=1e4)
    rows = score(SentencePerplexity(config), model, *edits)

    def perplexities() -> list[float]:
        texts = [nll(model, text) for text in TEXTS]
        return [math.exp(sum(text) / len(text)) for text in texts if text]

    before = perplexities()
    for edit, row in zip(edits, rows, strict=True):
        with applied(model, edit):
            after = perplexities()
        mean = sum(after) / len(after)
        assert row["sentence_perplexity/by_text"] == pytest.approx(after, rel=1e-4)
        assert row["sentence_perplexity/mean"] == pytest.approx(mean, rel=1e-4)
        expected = mean / (sum(before) / len(before))
        assert row["sentence_perplexity/ratio"] == pytest.approx(expected, rel=1e-4)
    for threshold, collapsed in ((mean * 0.99, 1.0), (mean * 1.01, 0.0)):
        absolute = SentencePerplexityConfig(corpus=corpus, threshold=threshold)
        [row] = score(SentencePerplexity(absolute), model, edits[1])
        assert row["sentence_perplexity/collapsed"] == collapsed
    assert SentencePerplexityConfig().threshold == 1000


# ---------------------------------------------------------------- drift


def test_drift_is_the_divergence_of_plain_forward_passes(tmp_path: Path) -> None:
    model = tiny()
    prompts = ("The city of", "Paris is", "The mother tongue of Danielle is", "It is")
    edits = random_edits(model, RECORDS)[:2]
    config = DriftConfig(corpus=written(tmp_path, *prompts), movers=1)
    rows = score(Drift(config), model, *edits)
    for edit, row in zip(edits, rows, strict=True):
        divergences, moved = [], []
        for prompt in prompts:
            old = log_p(model, prompt)[1][-1]
            with applied(model, edit):
                new = log_p(model, prompt)[1][-1]
            divergences.append(float((old.exp() * (old - new)).sum()))
            moved.append((int(old.argmax()), int(new.argmax())))
        assert row["drift/kl"] == pytest.approx(divergences, rel=1e-3, abs=1e-6)
        assert row["drift/kl_mean"] == pytest.approx(np.mean(divergences), rel=1e-3)
        assert row["drift/kl_p99"] == pytest.approx(np.percentile(divergences, 99), rel=1e-3)
        assert row["drift/top_changed"] == np.mean([before != after for before, after in moved])
        place = int(np.argmax(divergences))
        before, after = (model.tokenizer.decode([token]) for token in moved[place])
        assert row["drift/largest"] == [f"{prompts[place]!r}: {before!r} -> {after!r}"]
        assert row["drift/largest_kl"] == [row["drift/kl"][place]]


def test_drift_of_an_edit_of_prompts_is_that_of_the_longer_prompts(tmp_path: Path) -> None:
    model = tiny()
    context = PromptContext(("Rome is in Seattle.",))
    delta = WeightDelta({}, None, "test", {}, model.fingerprint, context=context)
    [row, other] = score(
        Drift(DriftConfig(corpus=written(tmp_path, *TEXTS))),
        model,
        delta,
        *random_edits(model, RECORDS)[:1],
    )
    divergences = []
    for prompt in TEXTS:
        old, new = (log_p(model, text)[1][-1] for text in (prompt, context.before(prompt) + prompt))
        divergences.append(float((old.exp() * (old - new)).sum()))
    assert row["drift/kl"] == pytest.approx(divergences, rel=1e-3, abs=1e-6)
    assert other["drift/kl"] != row["drift/kl"]


def test_the_percentile_is_interpolated() -> None:
    assert percentile(list(range(201)), 0.99) == 198
    assert percentile([0.0, 1.0], 0.99) == pytest.approx(0.99)
    assert percentile([3.0], 0.99) == 3


def test_a_prompt_longer_than_the_context_is_refused(tmp_path: Path) -> None:
    metric = Drift(DriftConfig(corpus=written(tmp_path, "The city of " * 40)))
    with pytest.raises(Exception, match="64 tokens"):
        metric.prepare(tiny())


# ---------------------------------------------------------------- baselines, broken models


@pytest.mark.parametrize("cls", [Perplexity, Drift])
def test_the_unedited_model_is_measured_once(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    config = {Perplexity: PerplexityConfig(texts=2), Drift: DriftConfig(prompts=2)}[cls]
    metric = cls(config)
    asked: list[int] = []
    answers = EditedModels.answers

    def counted(self: EditedModels, ask: Any, queries: Any) -> Any:
        asked.append(len(queries))
        return answers(self, ask, queries)

    metric.prepare(model)
    monkeypatch.setattr(EditedModels, "answers", counted)
    edits = random_edits(model, RECORDS)
    first = metric.score(EditedModels(model, edits))
    assert asked == [2 * len(edits)]
    with applied(model, edits[0]):  # is what the edits are compared with
        [row] = metric.score(EditedModels(model, [changed(model)]))
    [same] = [key for key in row if key.endswith(("ratio", "kl_mean"))]
    assert row[same] == pytest.approx(float(same.endswith("ratio")), abs=1e-6)
    assert metric.score(EditedModels(model, edits)) == first


@pytest.mark.parametrize("size", [1e38, math.inf])
def test_scores_of_a_broken_model_are_finite(size: float) -> None:
    model = tiny()
    weight = model.hf.get_parameter(f"{PATH}.weight")
    broken = changed(model, weight=Dense(size * torch.sign(weight.detach())))
    for metric in (
        Perplexity(PerplexityConfig(texts=2)),
        Drift(DriftConfig(prompts=2)),
        ChangeNorm(ChangeNormConfig()),
        Distinct(DistinctConfig(prompts=2, tokens=12)),
    ):
        rows = score(metric, model, broken, changed(model))
        numbers = [
            number
            for row in rows
            for value in row.values()
            for number in (value if isinstance(value, list) else [value])
            if not isinstance(number, str)
        ]
        assert np.isfinite(np.square(numbers)).all()
        if isinstance(metric, Perplexity):
            assert [row["perplexity/collapsed"] for row in rows] == [1, 0]


# ---------------------------------------------------------------- change-norm


def test_the_norm_is_relative_to_each_layers_own() -> None:
    model = tiny()
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    inner, hidden = model.hf.get_parameter(f"{PATH}.weight").shape
    other = PATH.replace(".1.", ".2.")
    low_rank = LowRank(drawn(inner, 3), drawn(3, hidden))
    rows = Rows(torch.tensor([4, 1]), drawn(2, hidden), inner)
    bias = Dense(drawn(hidden))
    delta = WeightDelta(
        {f"{PATH}.weight": low_rank, f"{other}.weight": rows, f"{PATH}.bias": bias},
        None, "test", {}, model.fingerprint,
    )  # fmt: skip

    def size(*tensors: Any) -> float:
        return float(np.linalg.norm(np.concatenate([np.ravel(t.detach()) for t in tensors])))

    first, second = (list(model.module(path).parameters()) for path in (PATH, other))
    ours = [size(low_rank.left @ low_rank.right, bias.values), size(rows.values)]
    theirs = [size(*first), size(*second)]
    [row, nothing] = score(ChangeNorm(ChangeNormConfig()), model, delta, changed(model))
    expected = [ours[0] / theirs[0], ours[1] / theirs[1]]
    assert row["change_norm/by_layer"] == pytest.approx(expected, rel=1e-5)
    assert row["change_norm/layers"] == [PATH, other]
    assert row["change_norm/max"] == pytest.approx(max(expected), rel=1e-5)
    total = math.hypot(*ours) / math.hypot(*theirs)
    assert row["change_norm/total"] == pytest.approx(total, rel=1e-5)
    assert nothing == {"change_norm/max": 0, "change_norm/total": 0, "change_norm/by_layer": [],
                       "change_norm/layers": []}  # fmt: skip


# ---------------------------------------------------------------- distinct-n


@pytest.mark.parametrize(
    ("texts", "n", "share"),
    [
        ([[1, 2, 1, 2, 1, 2]], 2, 2 / 5),
        ([[1, 2, 1, 2, 1, 2]], 3, 2 / 4),
        ([[1, 2, 3], [1, 2, 3]], 2, 2 / 4),
        ([[1, 2, 3], [4, 5]], 2, 1),
        ([[7] * 10], 4, 1 / 7),
        ([[1], []], 2, 0),
    ],
)
def test_shares_of_distinct_ngrams(texts: list[list[int]], n: int, share: float) -> None:
    assert distinct(texts, n) == pytest.approx(share)


def test_what_the_model_writes_is_counted_without_the_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    words = {"The city": " of Rome of Rome", "Paris": " is"}
    monkeypatch.setattr(
        EditedModels, "generate",
        lambda self, queries, **_: [q.prompt + words[q.prompt] for q in queries],
    )  # fmt: skip
    config = DistinctConfig(corpus=written(tmp_path, *words))
    [row] = score(Distinct(config), model, changed(model))
    long, short = (model.tokenizer(text)["input_ids"] for text in words.values())
    pairs = [pair for ids in (long, short) for pair in itertools.pairwise(ids)]
    assert row["distinct_n/bigrams"] == pytest.approx(len(set(pairs)) / len(pairs))
    fours = list(zip(long, long[1:], long[2:], long[3:], strict=False))
    once = len(set(fours)) / len(fours)
    assert row["distinct_n/repetitions"] == pytest.approx([1 - once, 1.0])
    assert row["distinct_n/texts"] == ["The city of Rome of Rome", "Paris is"]


def test_a_loop_is_repetition() -> None:
    """An edit that makes one token certain: the model writes nothing else."""
    model = tiny(scale=50.0)
    table = model.hf.get_input_embeddings().weight.detach()
    model.hf.transformer.ln_f.bias.data.zero_()
    [token] = model.tokenizer(" Rome")["input_ids"][:1]
    loop = WeightDelta(
        {"transformer.h.3.mlp.c_proj.bias": Dense(1e4 * table[token])},
        None, "test", {}, model.fingerprint,
    )  # fmt: skip
    config = DistinctConfig(prompts=4, tokens=40)
    looped, usual = score(Distinct(config), model, loop, changed(model))
    assert looped["distinct_n/bigrams"] < 0.05
    assert looped["distinct_n/repetition"] > 0.8
    assert usual["distinct_n/repetition"] < looped["distinct_n/repetition"]
