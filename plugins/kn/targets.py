"""The tokens of a target, with or without the space before it."""

from __future__ import annotations

from editkit.models import LanguageModel
from editkit_plugins.kn.config import AttributionConfig


def target_tokens(
    model: LanguageModel,
    prompt: str,
    target: str,
    config: AttributionConfig,
    *,
    separator: str | None = None,
    chat: bool = False,
) -> tuple[int, ...]:
    """Tokens of a target after a prompt, or as the published run encodes it: on its own.

    Args:
        model: Whose tokens are wanted.
        prompt: The prompt.
        target: The target.
        config: Whether the separator before the target counts.
        separator: What stands between prompt and target; None: the default rule.
        chat: Whether the prompt is a user's turn in a chat.

    Raises:
        RequestError: A text cannot be used.
    """
    if config.target_space:
        [completion] = model.complete([prompt], [target], separators=separator, chat=chat)
        return completion.target
    return model.alone(target, after=prompt, separator="")
