"""What edited models write, next to what teacher forcing predicts of it.

For a prompt x, the wanted answer a = a_1 ... a_n with its aliases, and the greedy text w(x) of the
edited model f up to the stop::

    forced     mean over i of [argmax f(. | x, a_1 ... a_(i-1)) = a_i]     the "synthetic" score
    free       [w(x) contains a or an alias]
    exact      [w(x) is a or an alias]
    gap        forced - free

as means over a record's prompts of one kind. Teacher forcing gives the model the answer's first
tokens and its length; "The mirage of model editing" (Yang et al. 2025, arXiv 2502.11177) shows how
much that flatters.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from editkit import EditedModels, LanguageModel, Metric, MetricRow, OpenQuestion, Record
from editkit.editing.open_questions import free_answers
from editkit.editing.stops import Stop
from editkit.matching import contained, exact
from editkit_plugins.free_generation.asking import Prompt, prompts_of
from editkit_plugins.free_generation.config import Frame, FreeChatConfig, FreeConfig

_Row = dict[str, float | list[float] | list[str]]


class _Answered(NamedTuple):
    """A prompt with what the model wrote, and how right that is."""

    text: str
    forced: float
    free: float
    exact: float


class Free(Metric[FreeConfig]):
    """Teacher-forced and free scores at the rewritten prompt, paraphrases and neighbours."""

    def check(self, model: LanguageModel) -> None:
        """Refuse a model without a chat template if questions are asked in one."""
        if self.config.frame == "chat":
            _ = model.chat_template

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """The scores of each record; as details, those of each prompt, and the texts."""
        return _rows(models, records, self.config, self.config.frame, "free")


class FreeChat(Metric[FreeChatConfig]):
    """The same, with every prompt as a user's turn in the model's chat template."""

    def check(self, model: LanguageModel) -> None:
        """Refuse a model without a chat template."""
        _ = model.chat_template

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """The scores of each record; as details, those of each prompt, and the texts.

        Raises:
            ModelError: The tokenizer has no usable chat template.
        """
        return _rows(models, records, self.config, "chat", "free_chat")


def _rows(
    models: EditedModels,
    records: Sequence[Record],
    config: FreeChatConfig,
    frame: Frame,
    prefix: str,
) -> list[MetricRow]:
    prompts = prompts_of(records, frame)
    by_kind: list[dict[str, list[_Answered]]] = [{} for _ in records]
    for prompt, answered in zip(prompts, _answered(models, records, prompts, config), strict=True):
        by_kind[prompt.edit].setdefault(prompt.kind, []).append(answered)
    rows: list[MetricRow] = []
    for kinds in by_kind:
        row: _Row = {}
        for kind, results in kinds.items():
            key = f"{prefix}/{kind}"
            forced, free = [each.forced for each in results], [each.free for each in results]
            matched = [each.exact for each in results]
            row |= {
                f"{key}_forced": fmean(forced),
                key: fmean(free),
                f"{key}_exact": fmean(matched),
                f"{key}_gap": fmean(forced) - fmean(free),
                f"{key}_forced_shares": forced,
                f"{key}_hits": free,
                f"{key}_exact_hits": matched,
                f"{key}_texts": [each.text for each in results],
            }
        rows.append(row)
    return rows


def _answered(
    models: EditedModels,
    records: Sequence[Record],
    prompts: Sequence[Prompt],
    config: FreeChatConfig,
) -> list[_Answered]:
    """What the models write after each prompt."""
    spellings = [records[prompt.edit].spellings(prompt.answer) for prompt in prompts]
    questions = [
        (prompt.edit, OpenQuestion(prompt.asked, (each,), prompt.chat))
        for prompt, each in zip(prompts, spellings, strict=True)
    ]
    texts = free_answers(models, questions, Stop(config.stop, config.tokens))
    scores = models.candidate_scores([prompt.candidates for prompt in prompts])
    return [
        _Answered(
            prompt.with_text(text),
            candidates[prompt.place].argmax,
            float(contained(text, each)),
            float(exact(text, each)),
        )
        for prompt, each, text, candidates in zip(prompts, spellings, texts, scores, strict=True)
    ]
