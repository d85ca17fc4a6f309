"""What can be wrong with a model: a message, what to do, and whether it can be used anyway."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

__all__ = ["Problem", "ending", "gguf_problem", "some"]

_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something about a model's files.

    Attributes:
        topic: ``model``, ``adapter``, ``config``, ``weights`` or ``tokenizer``.
        message: What is wrong.
        hint: What to do.
        verdict: ``problem`` if the model cannot be used, ``warning`` if it can.
    """

    topic: str
    message: str
    hint: str
    verdict: Literal["problem", "warning"] = "problem"

    def __str__(self) -> str:
        return f"{self.message} {self.hint}"


def gguf_problem(model: str, files: list[str], topic: str) -> Problem:
    """That a model's weights are GGUF, and what to do."""
    return Problem(
        topic,
        f"the weights of {model} are GGUF ({some(files)}), which is not read.",
        "Use the checkpoint that it was made from; or convert it to safetensors with transformers: "
        "AutoModelForCausalLM and AutoTokenizer .from_pretrained(folder, gguf_file=FILE), then "
        "save_pretrained both to a new folder.",
    )


def ending(names: Iterable[str], end: str) -> list[str]:
    """The names with an ending, in whichever case."""
    return sorted(name for name in names if name.lower().endswith(end))


def some(names: list[str]) -> str:
    """The first few of some names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
