"""Texts that an edit puts before prompts: in-context editing as plain data.

A prompt p is read as the chosen texts, each followed by a separator, and then p::

    t_1 separator t_2 separator ... t_k separator before_prompt p

If only k of N texts are chosen, they are those with the largest score at p, and on a tie the later
ones, because a later edit replaces an earlier one::

    score(t, p) = sum over words w that t and p share of 1 / n_w        n_w: texts with w

A word of many texts counts little: among facts of one relation, the subject decides.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from editkit.errors import DeltaError
from editkit.prompts import words

__all__ = ["PromptContext", "TextOrder", "joined_contexts"]

TextOrder = Literal["written", "closest_last"]
"""Order of the chosen texts: as written, or those that share most words with the prompt last."""


@dataclasses.dataclass(frozen=True)
class PromptContext:
    """Texts that an edit puts before every prompt; in a chat, at the beginning of the user's turn.

    Attributes:
        texts: The texts, in the order in which they were written; at least one.
        most: How many texts a prompt gets: those that share most words with it. None: all.
        order: Order of the chosen texts.
        separator: Text after each of them.
        before_prompt: Text between the last separator and the prompt.

    Raises:
        DeltaError: A value is of the wrong type, a text is blank or is not valid Unicode.
    """

    texts: tuple[str, ...]
    most: int | None = None
    order: TextOrder = "written"
    separator: str = "\n"
    before_prompt: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.texts, tuple | list):
            raise _invalid("texts", self.texts, "a tuple of texts")
        object.__setattr__(self, "texts", tuple(self.texts))
        if not self.texts or not all(isinstance(t, str) and t.strip() for t in self.texts):
            raise _invalid("texts", self.texts, "at least one text, none of them blank")
        if self.most is not None and (type(self.most) is not int or self.most < 1):
            raise _invalid("most", self.most, "a number of texts from 1, or None for all")
        if self.order not in get_args(TextOrder):
            raise _invalid("order", self.order, " or ".join(map(repr, get_args(TextOrder))))
        for name in ("separator", "before_prompt"):
            if not isinstance(getattr(self, name), str):
                raise _invalid(name, getattr(self, name), "a text")
        try:
            "".join((*self.texts, self.separator, self.before_prompt)).encode("utf-8")
        except UnicodeEncodeError:
            raise _invalid("a text", "half of a surrogate pair", "valid Unicode") from None

    def chosen(self, prompt: str) -> tuple[str, ...]:
        """The texts that a prompt gets, in their order before it."""
        n = len(self.texts)
        if self.order == "written" and (self.most is None or self.most >= n):
            return self.texts
        scores = self._scores(prompt)
        closest_last = np.lexsort((np.arange(n), scores))  # by score, then by place
        places = closest_last[-self.most :] if self.most is not None else closest_last
        if self.order == "written":
            places = np.sort(places)
        return tuple(self.texts[place] for place in places)

    def before(self, prompt: str) -> str:
        """What the model reads before a prompt."""
        texts = "".join(f"{text}{self.separator}" for text in self.chosen(prompt))
        return f"{texts}{self.before_prompt}"

    def to_dict(self) -> dict[str, Any]:
        """The context as plain data."""
        return {**dataclasses.asdict(self), "texts": list(self.texts)}

    def digest_text(self) -> str:
        """A text that differs for different contexts."""
        return json.dumps(self.to_dict(), sort_keys=True)

    def _scores(self, prompt: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The score of each text at a prompt, (N,)."""
        n = len(self.texts)
        scores = np.zeros(n)
        for word in sorted(words(prompt)):  # a fixed order: equal texts get equal sums
            places = self._places.get(word)
            if places is not None:
                scores[places] += 1 / len(places)
        return scores

    @functools.cached_property
    def _places(self) -> dict[str, np.ndarray[Any, np.dtype[np.int64]]]:
        """Numbers of the texts with each word."""
        places: dict[str, list[int]] = {}
        for place, text in enumerate(self.texts):
            for word in words(text):
                places.setdefault(word, []).append(place)
        return {word: np.array(some) for word, some in places.items()}


def joined_contexts(contexts: Sequence[PromptContext]) -> PromptContext | None:
    """One context with the texts of several, in order; None if there are none.

    Raises:
        DeltaError: They choose, order or separate their texts differently.
    """
    if not contexts:
        return None
    first, *others = contexts
    for other in others:
        for field in ("most", "order", "separator", "before_prompt"):
            if getattr(other, field) != getattr(first, field):
                raise DeltaError(
                    f"contexts of prompts with {field} {getattr(first, field)!r} and "
                    f"{getattr(other, field)!r} cannot be joined.",
                    hint="Make all these edits with the same settings.",
                )
    texts = tuple(text for context in contexts for text in context.texts)
    return dataclasses.replace(first, texts=texts) if others else first


def _invalid(what: str, value: object, expected: str) -> DeltaError:
    return DeltaError(
        f"a context of prompts has {what} {value!r:.60}, expected {expected}.",
        hint="Give PromptContext plain values.",
    )
