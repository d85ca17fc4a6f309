"""The tokens of a target, with or without the space before it."""

from __future__ import annotations

from editkit.models import LanguageModel
from editkit_plugins.kn.config import AttributionConfig


def target_tokens(
    model: LanguageModel, prompt: str, target: str, config: AttributionConfig
) -> tuple[int, ...]:
    """Tokens of a target after a prompt, or as the published run encodes it: on its own."""
    if config.target_space:
        [completion] = model.complete([prompt], [target])
        return completion.target
    [encoding] = model.encode([target])
    spans = zip(encoding.ids, encoding.offsets, strict=True)
    return tuple(token for token, (first, last) in spans if last > first)
