"""WILD, the protocol of "The mirage of model editing" (Yang et al. 2025, arXiv 2502.11177).

For a prompt x, let w(x) be the greedy text of the edited model f up to the first token with "." or
a line feed in it, at most 50 tokens, and y(x) its tokens, that one included; y_0 are those of the
unedited model::

    reliability      mean over rewritten prompts of   [w(x) = new object]     after normalisation
    generalization   mean over paraphrases of         [w(x) = new object]
    locality         mean over neighbours of          [y(x) = y_0(x)]

The published scores ask GPT-4o-mini whether w(x) is right. This is the exact match that the
published code computes without an API key; its normalisation is that of
:func:`editkit.matching.wild_normalised`. Aliases do not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from editkit import EditedModels, LanguageModel, Metric, MetricRow, Record
from editkit.editing.greedy import Continuation, end_tokens, greedy_continuations
from editkit.editing.stops import WILD
from editkit.matching import wild
from editkit_plugins.free_generation.asking import Prompt, prompts_of
from editkit_plugins.free_generation.config import WildConfig

_SCORES = {
    "rewrite": "wild/reliability",
    "paraphrase": "wild/generalization",
    "neighborhood": "wild/locality",
}
_Model = tuple[object, ...]
_Asked = tuple[str, bool]


class Wild(Metric[WildConfig]):
    """Reliability, generalization and locality of what edited models write."""

    def __init__(self, config: WildConfig) -> None:
        super().__init__(config)
        # What the unedited model writes, for all editors; one model at a time.
        self._unedited: tuple[_Model, dict[_Asked, Continuation]] = ((), {})

    def check(self, model: LanguageModel) -> None:
        """Refuse a model without a chat template if questions are asked in one."""
        if self.config.frame == "chat":
            _ = model.chat_template

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """The scores of each record; as details, 1 or 0 for each prompt, and the texts.

        Raises:
            ModelError: Prompts are turns of a chat, and the tokenizer has no chat template.
        """
        prompts = prompts_of(records, self.config.frame)
        written = self._written(models, prompts)
        local = [prompt for prompt in prompts if prompt.kind == "neighborhood"]
        before = self._before(models, local)
        rows: list[dict[str, list[tuple[float, str]]]] = [{} for _ in records]
        for prompt, after in zip(prompts, written, strict=True):
            if prompt.kind == "neighborhood":
                then = before[prompt.asked, prompt.chat]
                right = (after.ids, after.ended) == (then.ids, then.ended)
            else:
                right = wild(after.text, [prompt.answer])
            result = (float(right), prompt.with_text(after.text))
            rows[prompt.edit].setdefault(_SCORES[prompt.kind], []).append(result)
        return [
            {key: fmean(hit for hit, _ in results) for key, results in row.items()}
            | {f"{key}_hits": [hit for hit, _ in results] for key, results in row.items()}
            | {f"{key}_texts": [text for _, text in results] for key, results in row.items()}
            for row in rows
        ]

    def _written(self, models: EditedModels, prompts: Sequence[Prompt]) -> list[Continuation]:
        """What each prompt's model writes; the unedited one is not asked twice."""
        edited = [bool(delta.changes) or delta.context is not None for delta in models.deltas]
        asked = [prompt for prompt in prompts if edited[prompt.edit]]
        after = iter(_continued(models, asked))
        before = self._before(models, [prompt for prompt in prompts if not edited[prompt.edit]])
        return [
            next(after) if edited[prompt.edit] else before[prompt.asked, prompt.chat]
            for prompt in prompts
        ]

    def _before(
        self, models: EditedModels, prompts: Sequence[Prompt]
    ) -> Mapping[_Asked, Continuation]:
        """What the unedited model writes after these prompts, and after others."""
        if not prompts:
            return {}
        model = models.model
        ends = [end_tokens(model, chat=chat) for chat in sorted({each.chat for each in prompts})]
        identity = (model.fingerprint, model.dtype, model.device, *ends)
        if self._unedited[0] != identity:
            self._unedited = (identity, {})
        known = self._unedited[1]
        new = {(each.asked, each.chat): each for each in prompts}
        new = {key: each for key, each in new.items() if key not in known}
        known.update(zip(new, _continued(models.unedited(), list(new.values())), strict=True))
        return known


def _continued(models: EditedModels, prompts: Sequence[Prompt]) -> list[Continuation]:
    queries = [prompt.generation for prompt in prompts]
    return greedy_continuations(models, queries, new_tokens=WILD.tokens, stop=WILD)
