"""What the metrics share: texts to ask with, and a value of the unedited model."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

from editkit import ConfigError, EditedModels, LanguageModel, WeightDelta
from editkit.covariance.corpora import Corpus

Value = TypeVar("Value")


class OfUnedited(Generic[Value]):
    """A value of the unedited model, measured once per model; only the latest one is kept.

    Args:
        measure: Measures it on one edited model, number 0, which has no edit.
    """

    def __init__(self, measure: Callable[[EditedModels], Value]) -> None:
        self._measure = measure
        self._known: tuple[str, Value] | None = None

    def of(self, model: LanguageModel) -> Value:
        """The value of a model as it is."""
        fingerprint = model.fingerprint
        if self._known is None or self._known[0] != fingerprint:
            none = WeightDelta({}, None, "none", {}, fingerprint)
            self._known = fingerprint, self._measure(EditedModels(model, [none]))
        return self._known[1]


def first_texts(corpus: str, n: int) -> list[str]:
    """The first ``n`` texts of a corpus, or all if it has fewer.

    Raises:
        ConfigError: It has none, or cannot be read.
    """
    texts = list(itertools.islice(Corpus(corpus).texts(), n))
    if not texts:
        raise ConfigError(
            f"corpus {corpus!r} has no texts.", hint="Give a file with a text per line."
        )
    return texts
