"""The editor ``in-context``: facts in the prompt, the baseline without weights.

For facts (s_i, r_i, o_i*) with statements f_i, the edited model reads a prompt p as::

    template(f_1) separator ... template(f_n) separator before_prompt p

or with only the ``select`` facts that share most words with p
(:mod:`editkit.editing.prompt_context`). The preset ``ike`` has the words of Zheng et al. 2023 (Can
We Edit Factual Knowledge by In-Context Learning?), whose method adds demonstrations from a training
set in the same form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from editkit import EditRequest, JointEditor, PromptContext, Requirements, WeightDelta
from editkit_plugins.in_context.config import STATEMENT, InContextConfig

if TYPE_CHECKING:
    from editkit import LanguageModel
    from editkit.models import ModelShape


class InContextEditor(JointEditor[InContextConfig]):
    """Puts facts before prompts."""

    name = "in-context"

    def requirements(self, shape: ModelShape, *, requests: int, tokens: int) -> Requirements:
        """No memory beyond the model's own."""
        return Requirements()

    def edit_jointly(self, model: LanguageModel, requests: Sequence[EditRequest]) -> WeightDelta:
        """One context with all facts, in order.

        Raises:
            ModelError: A fact alone is longer than the model's context.
            RequestError: A fact contains a special token.
        """
        config = self.config
        texts = tuple(self._text(request) for request in requests)
        for text, encoding in zip(texts, model.encode(texts), strict=True):
            model.special.check(text, "fact")
            model.check_length(encoding)
        context = PromptContext(
            texts, config.select, config.order, config.separator, config.before_prompt
        )
        return self.delta(model, requests, {}, context=context)

    def _text(self, request: EditRequest) -> str:
        return self.config.template.replace(STATEMENT, request.statement)
