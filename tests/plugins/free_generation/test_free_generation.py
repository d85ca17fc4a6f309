"""``free``, ``free-chat`` and ``wild``, against transformers and shares counted on paper."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch

from editkit import (
    EditedModels,
    EditRequest,
    LanguageModel,
    MetricRow,
    ModelError,
    Probe,
    Record,
    WeightDelta,
    applied,
    load_model,
    make_editor,
    make_metric,
)
from editkit.editing.queries import GenerationQuery
from editkit.editing.stops import Stop
from editkit.registry.plugins import default_registry
from editkit.registry.specs import MetricSpec
from editkit_benchmarks.atlas.dataset import AtlasConfig, AtlasDataset
from tests.editkit.editing.test_deltas import delta_for
from tests.editkit.editing.test_greedy import plain
from tests.tiny import tiny

PROMPTS = ("Paris is", "The Space Needle is in the city of", "Microsoft", "Rome and")
TOKENS = 4
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("attnedit", "mend-cf", "rome")]
QUESTION = "Please answer the question:\n\nQ: {}\nA:"


def wordy(words: float, stops: float) -> LanguageModel:
    """A tiny model that writes words rather than parts of them, and full stops."""
    model = tiny()
    for text in (" city", " field", " Rome", " Paris", " mother", " works", "."):
        for token in model.tokenizer(text, add_special_tokens=False)["input_ids"]:
            factor = stops if text == "." else words
            model.hf.get_output_embeddings().weight.data[token] *= factor
    return model


def texts_of(model: LanguageModel, delta: WeightDelta, *, chat: bool = False) -> dict[str, str]:
    """What transformers writes after each prompt."""
    queries = [GenerationQuery(0, prompt, chat=chat) for prompt in PROMPTS]
    return {each.prompt: plain(model, delta, each, TOKENS).strip() for each in queries}


def forced(model: LanguageModel, delta: WeightDelta, prompt: str, answer: str) -> float:
    """Share of an answer's tokens that are the argmax, from one plain forward pass."""
    ids = model.tokenizer(f"{prompt} {answer}")["input_ids"]
    start = len(model.tokenizer(prompt)["input_ids"])
    with applied(model, delta), torch.no_grad():
        predicted = model.hf(torch.tensor([ids])).logits[0].argmax(dim=-1).tolist()
    pairs = list(zip(ids[start:], predicted[start - 1 :], strict=False))
    return sum(wanted == guess for wanted, guess in pairs) / len(pairs)


def scored(
    name: str, model: LanguageModel, delta: WeightDelta, record: Record, **config: Any
) -> MetricRow:
    [row] = make_metric(name, **config).score(EditedModels(model, [delta]), [record])
    return row


def request(prompt: str, new: str, **values: Any) -> EditRequest:
    """An edit at one of the prompts, with its first word as the subject."""
    subject, _, rest = prompt.partition(" ")
    return EditRequest(f"{{}} {rest}".strip(), subject, new, **values)


def test_shares_are_those_counted_on_paper() -> None:
    """Two edits, of which one is written; one of three paraphrases; one of two neighbours."""
    model = wordy(2, 1)
    delta = delta_for(model, 6)
    text = texts_of(model, delta)
    one, two, three, four = PROMPTS
    first_words = {prompt: text[prompt].split()[0] for prompt in PROMPTS}
    assert len(text[one].split()) > 1  # its first word is contained, but not exact
    record = Record(
        7,
        request(one, first_words[one]),
        also=(request(two, "zebra"),),
        probes={
            "rewrite": (Probe(one, "zebra", first_words[one]),),
            "paraphrase": (
                Probe(two, "zebra", "an alias"),
                Probe(three, text[three], "zebra"),
                Probe(four, "zebra", "zebra"),
            ),
            "neighborhood": (Probe(three, text[three], "zebra"), Probe(four, "zebra", text[four])),
        },
        aliases={"an alias": ("other", text[two].upper())},
    )
    row = scored("free", model, delta, record, stop="tokens", tokens=TOKENS)
    teacher = {
        "rewrite": [
            forced(model, delta, one, first_words[one]),
            forced(model, delta, two, "zebra"),
        ],
        "neighborhood": [
            forced(model, delta, three, text[three]),
            forced(model, delta, four, "zebra"),
        ],
    }
    assert row["free/rewrite_hits"] == [1, 0]
    assert row["free/rewrite_exact_hits"] == [0, 0]
    assert row["free/paraphrase_hits"] == row["free/paraphrase_exact_hits"] == [1, 0, 0]
    assert row["free/neighborhood_hits"] == row["free/neighborhood_exact_hits"] == [1, 0]
    assert (row["free/rewrite"], row["free/rewrite_exact"]) == (1 / 2, 0)
    assert row["free/paraphrase"] == row["free/paraphrase_exact"] == 1 / 3
    assert row["free/neighborhood"] == 1 / 2
    for kind, shares in teacher.items():
        mean = sum(shares) / 2
        assert row[f"free/{kind}_forced_shares"] == pytest.approx(shares)
        assert row[f"free/{kind}_forced"] == pytest.approx(mean)
        assert row[f"free/{kind}_gap"] == pytest.approx(mean - 1 / 2)
    assert row["free/rewrite_texts"] == [f"{prompt} {text[prompt]}" for prompt in (one, two)]


def test_teacher_forcing_flatters_and_the_gap_shows_it() -> None:
    """Given its first token, the model predicts the second of an answer that it does not write."""
    model = tiny()
    delta = delta_for(model, 1)
    [prompt, *_] = PROMPTS
    for answer in ("Rome is", "Microsoft works", "France and", "Italy is", "Windows is in"):
        share = forced(model, delta, prompt, answer)
        record = Record(1, request(prompt, answer))
        row = scored("free", model, delta, record, stop="tokens", tokens=TOKENS)
        assert row["free/rewrite_forced"] == pytest.approx(share)
        assert row["free/rewrite"] == 0
        assert row["free/rewrite_gap"] == pytest.approx(share)


def test_frames_ask_the_same_prompts_in_other_ways() -> None:
    model = tiny(context_length=128)
    delta = delta_for(model, 1)
    [prompt, *_] = PROMPTS
    record = Record(1, request(prompt, "Rome"))
    asked = GenerationQuery(0, QUESTION.format(prompt))
    given = {"stop": "tokens", "tokens": TOKENS}
    text = {
        "prompt": texts_of(model, delta)[prompt],
        "question": plain(model, delta, asked, TOKENS).strip(),
        "chat": texts_of(model, delta, chat=True)[prompt],
    }
    for frame, written in text.items():
        row = scored("free", model, delta, record, frame=frame, **given)
        between = "\n" if frame == "chat" else " "
        assert row["free/rewrite_texts"] == [f"{prompt}{between}{written}"]
        wild = scored("wild", model, delta, record, frame=frame)
        until_a_stop = re.split(r"[.\n]", written)[0]
        start = f"{prompt}{between}{until_a_stop}".strip()
        assert wild["wild/reliability_texts"][0].startswith(start)
    row = scored("free-chat", model, delta, record, **given)
    assert row["free_chat/rewrite_texts"] == [f"{prompt}\n{text['chat']}"]
    assert len(set(text.values())) > 1


def test_a_chat_needs_a_template() -> None:
    model = tiny()
    model.tokenizer.chat_template = None
    record = Record(1, request(PROMPTS[0], "Rome"))
    for name, config in (
        ("free-chat", {}),
        ("free", {"frame": "chat"}),
        ("wild", {"frame": "chat"}),
    ):
        with pytest.raises(ModelError, match="has no chat template"):
            scored(name, model, delta_for(model), record, **config)


def test_wild_counts_whole_answers_and_unchanged_tokens() -> None:
    model = wordy(3, 5)
    delta, none = delta_for(model, 5), delta_for(model, kinds="")
    after, before = (
        {prompt: _until_a_stop(model, each, prompt) for prompt in PROMPTS} for each in (delta, none)
    )
    one, two, three, _ = PROMPTS
    record = Record(
        1,
        request(one, f"The {after[one][1].upper()}!"),
        probes={
            "paraphrase": (
                Probe(two, "zebra", after[two][1]),
                Probe(three, "zebra", f"{after[three][1]} and more"),
            ),
            "neighborhood": tuple(Probe(each, "zebra", "zebra") for each in PROMPTS),
        },
        aliases={f"{after[three][1]} and more": (after[three][1],)},  # aliases do not count
    )
    row = scored("wild", model, delta, record)
    unchanged = [float(after[each][0] == before[each][0]) for each in PROMPTS]
    assert 0 < sum(unchanged) < 4
    assert row["wild/reliability"] == 1
    assert row["wild/generalization_hits"] == [1, 0]
    assert row["wild/locality_hits"] == unchanged
    assert row["wild/locality"] == sum(unchanged) / 4
    assert row["wild/generalization_texts"] == [f"{each} {after[each][1]}" for each in (two, three)]
    [mixed, same] = make_metric("wild").score(EditedModels(model, [delta, none]), [record, record])
    assert mixed == row
    assert same["wild/locality"] == 1


def _until_a_stop(model: LanguageModel, delta: WeightDelta, prompt: str) -> tuple[list[int], str]:
    """The tokens that transformers writes with WILD's stop strings, and their text."""
    ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])
    with applied(model, delta):
        [whole] = model.hf.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=50,
            stop_strings=[".", "\n", model.tokenizer.eos_token],
            tokenizer=model.tokenizer,
            pad_token_id=model.tokenizer.eos_token_id,
        )
    new = whole[ids.shape[1] :].tolist()
    text = model.tokenizer.decode(new, skip_special_tokens=True)
    return new, text.rstrip(".").rstrip("\n").strip()


@pytest.mark.parametrize(
    "name",
    ["ft", "in-context", *SLOW],
)
def test_batches_write_what_transformers_writes_for_each_prompt(name: str) -> None:
    """Under real editors' deltas, texts put before prompts among them."""
    model = load_model("atlas")
    records = AtlasDataset(AtlasConfig()).load().records[:3]
    records = tuple(
        dataclasses.replace(each, probes={kind: probes[:2] for kind, probes in each.probes.items()})
        for each in records
    )
    deltas = make_editor(name, model).edit(model, [record.request for record in records])
    rows = make_metric("free").score(EditedModels(model, deltas), records)
    for record, delta, row in zip(records, deltas, rows, strict=True):
        for kind in ("rewrite", "paraphrase", "neighborhood"):
            queries = [GenerationQuery(0, probe.prompt) for probe in record.probes[kind]]
            assert row[f"free/{kind}_texts"] == [
                f"{each.prompt} {Stop().cut(plain(model, delta, each, 30))}" for each in queries
            ]


def test_protocols_name_what_decides_the_numbers() -> None:
    specs = {
        offer.name: offer.spec
        for offer in default_registry().offers()
        if isinstance(offer.spec, MetricSpec)
    }
    free = make_metric("free", frame="question", stop="line", tokens=9).config
    assert specs["free"].protocol.format_map(vars(free)) == (
        "editkit/free/question/greedy-line-9/contained/v1"
    )
    assert specs["wild"].protocol.format_map(vars(make_metric("wild").config)) == (
        "wild/prompt/greedy-wild-50/exact-match/v1"
    )
