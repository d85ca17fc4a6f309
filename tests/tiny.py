"""The tiny models of ``editkit.testing``, by the names that the tests use."""

from __future__ import annotations

from editkit.testing.models import (
    ARCHITECTURES,
    SENTENCES,
)
from editkit.testing.models import (
    tiny_model as tiny,
)
from editkit.testing.models import (
    tiny_tokenizer as tokenizer,
)

__all__ = ["ARCHITECTURES", "SENTENCES", "tiny", "tokenizer"]
