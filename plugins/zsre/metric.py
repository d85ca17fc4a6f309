"""zsRE's metric: of the tokens of an answer, how many are the model's first choice?

Every token of the answer is asked for with those before it given (teacher forcing). The record's
accuracy is the share of its tokens that are right, as in the code behind the published tables of
ROME (Meng et al. 2022).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from editkit import EditedModels, LanguageModel, Metric, Probe, Record
from editkit.editing.next_tokens import NextTokenQuery, most_likely_tokens
from editkit.models.encoding import Sentence
from editkit_plugins.zsre.config import ZsreAccuracyConfig

KINDS = {"efficacy": "rewrite", "paraphrase": "paraphrase", "specificity": "neighborhood"}
"""Score -> the kind of probes that it asks."""

Asked = tuple[tuple[int, ...], int]
"""Token ids that go before, and the token that is right after them."""


class ZsreAccuracy(Metric[ZsreAccuracyConfig]):
    """The new answer at its question and rephrased, and the old one at an unrelated question."""

    def score(
        self, models: EditedModels, records: Sequence[Record]
    ) -> list[Mapping[str, float | list[float]]]:
        """The accuracies of each record; as details, token by token, 1 where it is right."""
        asked = [
            (edit, score, before, right)
            for edit, record in enumerate(records)
            for score, kind in KINDS.items()
            for probe in record.probes.get(kind, ())
            for before, right in self._asked(models.model, probe, _answer(score, probe))
        ]
        found = most_likely_tokens(models, [NextTokenQuery(e, ids) for e, _, ids, _ in asked])
        hits: list[dict[str, list[float]]] = [{} for _ in records]
        for (edit, score, _, right), token in zip(asked, found, strict=True):
            hits[edit].setdefault(score, []).append(float(token == right))
        return [
            {f"zsre/{score}": fmean(row) for score, row in rows.items()}
            | {f"zsre/{score}_hits": row for score, row in rows.items()}
            for rows in hits
        ]

    def _asked(self, model: LanguageModel, probe: Probe, answer: str) -> Iterator[Asked]:
        forced = _as_text if self.config.forcing == "text" else _as_tokens
        return forced(model, probe, answer)


def _answer(score: str, probe: Probe) -> str:
    """What a good edit makes, or leaves, the model's answer."""
    return probe.target_true if score == "specificity" else probe.target_new


def _as_text(model: LanguageModel, probe: Probe, answer: str) -> Iterator[Asked]:
    """The answer's earlier tokens are decoded, put behind the prompt, and tokenised with it.

    The right token is the first one of the asked token's own text. It is another one than the
    asked token where a character takes several tokens.
    """
    tokenizer = model.tokenizer

    def ids_of(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def text(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    [sentence] = _sentences(model, probe, answer)
    prompt = model.rendered(probe.prompt, chat=probe.chat).text
    tokens: Sequence[int] = sentence.target
    if sentence.separator:  # as the published code: the answer as a text of its own
        tokens = ids_of(f"{sentence.separator}{answer}")
    encodings = model.encode([prompt + text(tokens[:i]) for i in range(len(tokens))])
    for token, encoding in zip(tokens, encodings, strict=True):
        before = encoding.ids
        if probe.chat:
            model.check_length(encoding)
        elif len(before) > model.context_length:
            before = model.cropped(before, model.context_length, of=prompt)
        [right, *_] = ids_of(text([token])) or [token]
        yield before, right


def _sentences(model: LanguageModel, probe: Probe, answer: str) -> list[Sentence]:
    return model.sentences([probe.prompt], [answer], separators=probe.separator, chat=probe.chat)


def _as_tokens(model: LanguageModel, probe: Probe, answer: str) -> Iterator[Asked]:
    """Prompt and answer are tokenised as one sentence."""
    [completion] = model.complete(
        [probe.prompt], [answer], crop=True, separators=probe.separator, chat=probe.chat
    )
    for i, token in enumerate(completion.target):
        yield completion.prompt + completion.target[:i], token
