"""zsRE's metric: the share of an answer's tokens that greedy decoding predicts (teacher forcing).

For a prompt x and an answer t_1 ... t_n (Meng et al. 2022, section 3.2)::

    accuracy = mean over i of [argmax p(. | x, t_1 ... t_(i-1)) = t_i]

Efficacy and paraphrase ask for the new answer at the question and at the rephrased question;
specificity asks for the old answer at an unrelated question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from editkit import EditedModels, Metric, MetricRow, Probe, Record
from editkit.editing.edited_models import CandidateQuery
from editkit.editing.next_tokens import NextTokenQuery, forced_steps, most_likely_tokens
from editkit_plugins.zsre.config import ZsreAccuracyConfig

KINDS = {"efficacy": "rewrite", "paraphrase": "paraphrase", "specificity": "neighborhood"}
"""Score -> kind of probes."""

Prediction = tuple[tuple[int, ...], int]
"""Token ids of an input, and the correct next token."""


class ZsreAccuracy(Metric[ZsreAccuracyConfig]):
    """Accuracy on the new answer, the new answer rephrased, and an unrelated answer."""

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """The accuracies of each record; as details, 1 for each correct token and 0 otherwise."""
        hits = hits_of(models, records, KINDS, self.config)
        return [
            {f"zsre/{score}": fmean(row) for score, row in rows.items()}
            | {f"zsre/{score}_hits": row for score, row in rows.items()}
            for rows in hits
        ]


def hits_of(
    models: EditedModels,
    records: Sequence[Record],
    kinds: Mapping[str, str],
    config: ZsreAccuracyConfig,
) -> list[dict[str, list[float]]]:
    """For each record and score, 1 for each correct token of its answers and 0 otherwise.

    Args:
        models: The edited models, one per record.
        records: The records.
        kinds: Score -> kind of probes, as in :data:`KINDS`.
        config: How the answers' earlier tokens enter the input.
    """
    forced = _as_text if config.forcing == "text" else _as_tokens
    predictions = [
        (edit, score, inputs, correct)
        for edit, record in enumerate(records)
        for score, kind in kinds.items()
        for probe in record.probes.get(kind, ())
        for inputs, correct in forced(models, edit, probe, _answer(score, probe))
    ]
    queries = [NextTokenQuery(edit, inputs, in_context=True) for edit, _, inputs, _ in predictions]
    predicted = most_likely_tokens(models, queries)
    hits: list[dict[str, list[float]]] = [{} for _ in records]
    for (edit, score, _, correct), token in zip(predictions, predicted, strict=True):
        hits[edit].setdefault(score, []).append(float(token == correct))
    return hits


def _answer(score: str, probe: Probe) -> str:
    """The model's answer after a good edit."""
    return probe.target_true if score == "specificity" else probe.target_new


def _as_text(models: EditedModels, edit: int, probe: Probe, answer: str) -> Iterator[Prediction]:
    """Decode the answer's earlier tokens, append them to the prompt, and tokenise the whole text.

    The correct token is the first token of the answer token's decoded text. The two differ where
    one character takes several tokens.
    """
    model, tokenizer = models.model, models.model.tokenizer

    def ids_of(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def text(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    [sentence] = model.sentences(
        [probe.prompt], [answer], separators=probe.separator, chat=probe.chat
    )
    asked = models.in_context(edit, probe.prompt)
    prompt = model.rendered(asked, chat=probe.chat).text
    tokens: Sequence[int] = sentence.target
    if sentence.separator:  # as published: the answer is tokenised on its own
        tokens = ids_of(f"{sentence.separator}{answer}")
    encodings = model.encode([prompt + text(tokens[:i]) for i in range(len(tokens))])
    for token, encoding in zip(tokens, encodings, strict=True):
        inputs = encoding.ids
        if probe.chat or asked != probe.prompt:
            models.check_length(edit, encoding, probe.prompt)
        elif len(inputs) > model.context_length:
            inputs = model.cropped(inputs, model.context_length, of=prompt)
        [correct, *_] = ids_of(text([token])) or [token]
        yield inputs, correct


def _as_tokens(models: EditedModels, edit: int, probe: Probe, answer: str) -> Iterator[Prediction]:
    """Tokenise prompt and answer as one sentence."""
    query = CandidateQuery(edit, probe.prompt, (answer,), probe.separator, probe.chat)
    [steps] = forced_steps(models, query)
    for step, token in steps:
        yield step.ids, token
