"""Texts as tokens for tokenizers of several families: special tokens, offsets, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers
from tokenizers import models as token_models
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from editkit import EditRequest, ModelError, RequestError, load_model
from editkit.cli.main import main
from editkit.covariance.bench import rows_of
from editkit.editing.edited_models import CandidateQuery, EditedModels, GenerationQuery, TextQuery
from editkit.models import LanguageModel
from editkit.models.encoding import SubjectPosition
from tests.tiny import tiny
from tests.tokenizers import FAMILIES, model_of, tokenizer_of

FRONT = {"llama3": "<s>", "llama3+eos": "<s>", "metaspace": "<s>", "bert": "[CLS]"}
SENTENCE = "The Space Needle is in the city of"
POSITIONS: tuple[SubjectPosition, ...] = (
    "subject_first",
    "subject_last",
    "subject_first_after_last",
    "last",
)


def tokens(model: LanguageModel, ids: tuple[int, ...]) -> list[str]:
    return model.tokenizer.convert_ids_to_tokens(list(ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_has_one_begin_token_and_no_end_token(family: str) -> None:
    model = model_of(family)
    begin = FRONT.get(family)
    [plain] = model.encode([SENTENCE])
    own = model.tokenizer(SENTENCE, add_special_tokens=False)["input_ids"]
    front = [] if begin is None else [model.tokenizer.convert_tokens_to_ids(begin)]
    assert list(plain.ids) == [*front, *own]
    [read] = model.read([SENTENCE])
    assert read == plain
    assert model.encode([SENTENCE])[0].position((0, 9), "last") == len(plain) - 1
    if begin:
        [written] = model.read([f"{begin}{SENTENCE}"])
        assert written.ids.count(front[0]) == 1


def test_a_completion_is_the_same_whether_an_end_token_is_appended_or_not() -> None:
    without, appended = model_of("llama3"), model_of("llama3+eos")
    request = EditRequest("{} is in the city of", "The Space Needle", "Paris")
    for ask in (
        lambda m: m.complete([request.sentence], ["Paris"]),
        lambda m: [each.encoding for each in m.requested([request])],
        lambda m: m.encode(["Rome.", "Paris."]),
        lambda m: rows_of(m, ["Rome.", "Paris."], 99),
    ):
        assert ask(without) == ask(appended)
    models = [EditedModels(model, []) for model in (without, appended)]
    a, b = (EditedModels(m.model, [_nothing(m.model, request)]) for m in models)
    queries = [CandidateQuery(0, request.sentence, ("Paris", "French"))]
    assert a.candidate_nll(queries) == b.candidate_nll(queries)
    assert a.text_nll([TextQuery(0, SENTENCE)]) == b.text_nll([TextQuery(0, SENTENCE)])
    generation = [GenerationQuery(0, SENTENCE)]
    assert a.generate(generation, tokens=20) == b.generate(generation, tokens=20)


def _nothing(model: LanguageModel, request: EditRequest):
    from editkit import WeightDelta

    return WeightDelta({}, request, "none", {}, model.fingerprint)


@pytest.mark.parametrize("text", ["Ro</s>me", "<s>", "a <|user|>", "[SEP]"])
def test_special_tokens_in_subjects_and_targets_are_refused(text: str) -> None:
    model = model_of("llama3")
    for ask in (
        lambda: model.complete(["Rome is"], [text]),
        lambda: model.requested([EditRequest("{} is", text, "x")]),
        lambda: model.requested([EditRequest("{} is", "Rome", text)]),
        lambda: model.requested([EditRequest(f"In {text} {{}} is", "Rome", "x")]),
        lambda: model.read([f"In {text} is"]),
        lambda: model.alone(text, after="Rome is"),
    ):
        with pytest.raises(RequestError, match="special token"):
            ask()


def test_a_prompt_in_the_models_own_format_keeps_its_special_tokens() -> None:
    model = model_of("llama3")
    turn = f"<|user|>{SENTENCE}<|end|>\n<|model|>\n"
    for prompt in (turn, f"<s>{turn}"):
        [encoding] = model.read([prompt])
        assert tokens(model, encoding.ids)[:2] == ["<s>", "<|user|>"]
        assert tokens(model, encoding.ids).count("<s>") == 1
        [completion] = model.complete([prompt], ["Paris"])
        assert completion.prompt == encoding.ids
        assert model.tokenizer.decode(completion.target) == "Paris"
    with pytest.raises(RequestError, match="more than once"):
        model.read([f"<s><s>{SENTENCE}"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompt", ["{} is in", "In {} is", "（{}）的首都是", "He said: “{}” is"])
@pytest.mark.parametrize(
    "subject", ["Space Needle", "São Paulo", "Zoe\u0308", "法国", "ﬁn", "x😀y"]
)
def test_positions_follow_the_subjects_characters(family: str, prompt: str, subject: str) -> None:
    model = model_of(family)
    request = EditRequest(prompt, subject, "Paris")
    [sentence] = model.requested([request])
    first, last = (sentence.prompt.position(request.subject_span, p) for p in POSITIONS[:2])
    covered = "".join(_distinct(sentence.encoding, first, last))
    assert subject.replace("\u0308", "") in covered.replace("\u0308", "")
    start, end = request.subject_span
    for i, (a, b) in enumerate(sentence.encoding.offsets):
        assert (a < end and b > start) == (first <= i <= last)
    assert sentence.prompt.position(request.subject_span, "last") == sentence.cut - 1
    assert sentence.target == sentence.encoding.ids[sentence.cut :]


def _distinct(encoding, first: int, last: int) -> list[str]:
    """Texts of tokens, those of several tokens of one character once."""
    spans = dict.fromkeys(encoding.offsets[first : last + 1])
    text = dict(zip(encoding.offsets, encoding.texts, strict=True))
    pieces, end = [], -1
    for a, b in spans:
        if b > end:
            pieces.append(text[a, b][max(0, end - a) :] if end > a else text[a, b])
            end = b
    return pieces


@given(subject=st.text(min_size=1, max_size=8), target=st.text(min_size=1, max_size=8))
def test_any_text_is_encoded_or_refused_with_a_message(subject: str, target: str) -> None:
    for family in ("gpt2", "llama3+eos", "metaspace", "nfkc", "lower"):
        model = model_of(family)
        try:
            request = EditRequest("The city of {} is in", subject, target)
            [sentence] = model.requested([request])
        except RequestError:
            continue
        first = sentence.encoding.position(request.subject_span, "subject_first")
        last = sentence.encoding.position(request.subject_span, "subject_last")
        assert 0 <= first <= last < len(sentence.encoding)
        assert 0 < sentence.cut < len(sentence.encoding)
        offsets = sentence.encoding.offsets
        start, end = request.subject_span
        assert offsets[first][0] <= start or request.sentence[start : offsets[first][0]].isspace()
        assert offsets[first][1] > start
        assert offsets[last][0] < end
        assert max(b for _, b in offsets[: sentence.cut]) <= len(request.sentence)


# ---------------------------------------------------------------- what a tokenizer drops


def words_only(unknown: str | None = "[UNK]") -> LanguageModel:
    """A model that knows a few words, and drops control characters and digits."""
    words = {w: i for i, w in enumerate(["[UNK]", "Rome", "is", "in", "Italy", "the"])}
    built = Tokenizer(token_models.WordLevel(words, unk_token=unknown))
    built.normalizer = normalizers.Sequence(
        [normalizers.Replace(gone, "") for gone in ("7", "€", "\u200b")]
    )
    built.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=built, unk_token=unknown)
    return LanguageModel(tiny().hf, tokenizer, name="words")


@pytest.mark.parametrize(
    ("prompt", "subject", "target", "message"),
    [
        ("{} is in", "Rome", "777", "drops '777' of the text 'Rome is in 777'"),
        ("{} is in", "777", "Italy", "drops '777'"),
        ("the {}", "Rome", "7€7", "drops '7€7'"),
        ("{} is in", "Rome", "Italy 7", "drops '7'"),
        ("{} is in", "Rome", "\u200b", "no token for the target"),
        ("in {} is", "\u200b", "Italy", "no token covers"),
        ("{} is in", "Rome", "Paris", "does not know all of the target 'Paris'"),
        ("{} is in", "Paris", "Italy", "does not know the subject 'Paris'"),
    ],
)
def test_dropped_and_unknown_characters_are_refused(
    prompt: str, subject: str, target: str, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        words_only().requested([EditRequest(prompt, subject, target)])


def test_a_text_without_tokens_is_refused_and_skipped_in_corpora() -> None:
    model = words_only()
    for ask in (model.encode, model.read):
        with pytest.raises(RequestError, match="no token for the text '777'"):
            ask(["Rome is", "777"])
    assert len(rows_of(model, ["Rome is", "777", "Italy"], 99)) == 2
    with pytest.raises(RequestError, match="surrogate"):
        model.encode(["\udcff"])


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused() -> None:
    hf = tiny().hf
    larger = tokenizer_of("gpt2")
    rows = hf.get_input_embeddings().weight.shape[0]
    larger.add_tokens([f"<extra{i}>" for i in range(rows + 2 - len(larger))])
    with pytest.raises(ModelError, match=f"up to {rows + 1}, but the embedding has only {rows}"):
        LanguageModel(hf, larger, name="larger")


def test_double_spaces_are_never_encoded() -> None:
    model = model_of("gpt2")
    wanted = model.complete(["Rome is"], ["Paris"])
    assert model.complete(["Rome is "], [" Paris "]) == wanted
    assert model.complete(["Rome is"], ["Paris"], separators=" ") == wanted
    for prompt, target in (("Rome is ", "Paris"), ("Rome is", " Paris")):
        with pytest.raises(RequestError, match="not clear"):
            model.complete([prompt], [target], separators=" ")
    assert model.read(["Rome is \t"]) == model.read(["Rome is"])
    with pytest.raises(ValueError, match="zip"):
        model.complete(["Rome is"], ["Paris", "Oslo"])


def test_positions_and_scores_ignore_end_tokens() -> None:
    """Losses: the last state that is read is that of the target's last token but one."""
    model = model_of("llama3+eos")
    [completion] = model.complete([SENTENCE], ["Seattle"])
    assert tokens(model, completion.prompt + completion.target)[-1] != "</s>"
    with torch.no_grad():
        assert model.hf(torch.tensor([completion.prompt])).logits.shape[1] == len(completion.prompt)


def test_a_larger_tokenizer_in_a_folder_is_refused_at_load_and_found_by_doctor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny()
    model.hf.save_pretrained(tmp_path)
    larger = tokenizer_of("gpt2")
    larger.add_tokens([f"<extra{i}>" for i in range(500)])
    larger.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="token ids up to"):
        load_model(str(tmp_path))
    assert main(["doctor", "--model", str(tmp_path), "--editor", "ft"]) != 0
    assert "has token ids up to" in " ".join(capsys.readouterr().out.split())
