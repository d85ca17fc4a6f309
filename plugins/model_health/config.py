"""Configurations of the metrics of a model as a whole, and of ``shift``."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from editkit import Config
from editkit.interfaces import CorpusName

PLAIN_TEXTS = "editkit_benchmarks:corpora/plain.txt"
OPENINGS = "editkit_benchmarks:corpora/openings.txt"
Kind = Literal["rewrite", "paraphrase", "neighborhood", "attribute", "same_subject"]


class PerplexityConfig(Config):
    """The texts that the model reads, and when it counts as collapsed."""

    corpus: CorpusName = PLAIN_TEXTS
    """Source of the texts: a file with a text per line, ``hub:name:config:split``, and the other
    forms that statistics take. The default texts are everyday sentences without names."""

    texts: int = Field(default=50, ge=1)
    """Number of texts to read, from the beginning of the corpus."""

    tokens: int | None = Field(default=None, ge=2)
    """Most tokens of a text; None: whole texts, up to the model's context."""

    threshold: float = Field(default=10.0, gt=1)
    """The model counts as collapsed if its perplexity is more than this many times that of the
    unedited model."""


class SentencePerplexityConfig(Config):
    """The texts that the model reads, and when it counts as collapsed."""

    corpus: CorpusName = PLAIN_TEXTS
    """Source of the texts, as for ``perplexity``. Published numbers use the texts of ME-PPL, which
    are not included: give a file with one of them per line."""

    texts: int = Field(default=50, ge=1)
    """Number of texts to read, from the beginning of the corpus."""

    tokens: int | None = Field(default=None, ge=2)
    """Most tokens of a text; None: whole texts, up to the model's context."""

    threshold: float = Field(default=1000.0, gt=1)
    """The model counts as collapsed if the mean of its perplexities is above this number."""


class DriftConfig(Config):
    """The prompts after which next-token distributions are compared."""

    corpus: CorpusName = OPENINGS
    """Source of the prompts, one per text: a file with a prompt per line, and the other forms that
    statistics take. The default prompts are beginnings of everyday sentences without names."""

    prompts: int = Field(default=100, ge=1)
    """Number of prompts, from the beginning of the corpus."""

    movers: int = Field(default=5, ge=0)
    """Most prompts to list with their top tokens before and after, largest divergence first."""


class ChangeNormConfig(Config):
    """The norm has nothing to configure."""


class DistinctConfig(Config):
    """The texts that the model writes."""

    corpus: CorpusName = OPENINGS
    """Source of the prompts, as for ``drift``."""

    prompts: int = Field(default=16, ge=1)
    """Number of prompts, from the beginning of the corpus; the model writes one text for each."""

    tokens: int = Field(default=60, ge=1)
    """Length of a text in tokens, including its prompt; at most the model's context."""

    top_k: int = Field(default=5, ge=1)
    """Number of most likely tokens to sample from."""


KINDS: tuple[Kind, ...] = get_args(Kind)


class ShiftConfig(Config):
    """The prompts at which next-token distributions are compared."""

    kinds: tuple[Kind, ...] = Field(default=KINDS, min_length=1)
    """Kinds of prompts. At ``neighborhood``, ``attribute`` and ``same_subject`` prompts nothing
    should move; ``rewrite`` and ``paraphrase`` prompts show how far the edit itself moved the
    distribution."""
