"""Hyperparameters of a second moment C, for the configuration of any editor that whitens keys.

A configuration class inherits them, with their documentation. Importing this module loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from editkit.covariance.corpora import Corpus, Order
from editkit.data_types import RequiredStatistic
from editkit.errors import ConfigError
from editkit.interfaces import Config, CorpusName, FileName

__all__ = ["SecondMomentConfig"]


class SecondMomentConfig(Config):
    """The corpus that C averages over, or the published file that it is read from."""

    second_moment: bool = True
    """Whether keys are whitened by the second moment C of the keys of a corpus."""

    corpus: CorpusName | None = None
    """Texts for C: a file, ``package:file``, ``package.module:function``, ``hub:name:config``."""

    corpus_tokens: Annotated[int, Field(ge=1)] | None = None
    """Number of tokens, from the beginning of the corpus; None: all."""

    corpus_order: Order | None = None
    """Order of the texts: ``stored``, or ``random``: the first tokens are then a random sample of
    texts without replacement; null: ``random`` for ``hub:...``, else ``stored``."""

    corpus_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the random order."""

    corpus_row_tokens: Annotated[int, Field(ge=1)] = 2048
    """Most tokens of a text, at most the model's context: the default keeps the whole context of
    GPT-2 and GPT-J, as published."""

    second_moment_file: FileName | tuple[FileName, ...] | None = None
    """A published ``.npz`` statistic to read instead of a corpus; for several layers, a list with a
    file for each."""

    statistics_of: Literal["base", "edited"] = "base"
    """Model that C is computed on when earlier edits are applied, as in a sequence: the base model
    without them, once (as in the published code), or the edited model, again for each step."""

    ridge: Annotated[float, Field(ge=0)] = 0.0
    """Added to the diagonal of C, in units of its mean diagonal; small models need about 1e-3."""

    def corpus_for(self, editor: str) -> Corpus | None:
        """The corpus of C; None if no corpus is needed.

        Args:
            editor: The editor's name, for the error message.

        Raises:
            ConfigError: C is wanted, but neither a corpus nor a file is named.
        """
        if not self.second_moment or self.second_moment_file is not None:
            return None
        if self.corpus is None:
            raise ConfigError(
                f"{editor} needs a corpus for the second moment of its keys, and none is named.",
                hint=f"Set editors.{editor}.corpus (or second_moment_file), or second_moment: "
                "false.",
            )
        return Corpus(self.corpus, self.corpus_order, self.corpus_seed)

    def check_for(self, model: str, model_fingerprint: str, name: str) -> None:
        """Refuse a second moment without a corpus.

        Raises:
            ConfigError: As for :meth:`corpus_for`.
        """
        super().check_for(model, model_fingerprint, name)
        self.corpus_for(name)

    def files_for(self, paths: Sequence[str], editor: str) -> tuple[str, ...]:
        """The published file of each module; empty if none is read.

        Args:
            paths: Dotted paths of the modules.
            editor: The editor's name, for the error message.

        Raises:
            ConfigError: There are more or fewer files than modules.
        """
        files = self.second_moment_file
        if not self.second_moment or files is None:
            return ()
        files = (files,) if isinstance(files, str) else files
        if len(files) != len(paths):
            raise ConfigError(
                f"{editor} edits {len(paths)} layers, but second_moment_file names {len(files)} "
                "files.",
                hint=f"Give a list with one file for each of {', '.join(paths)}.",
            )
        return files

    def statistics(self, paths: str | Sequence[str], width: int) -> tuple[RequiredStatistic, ...]:
        """The statistics to read, for :meth:`editkit.Editor.requirements`; none without C.

        Args:
            paths: Dotted path of the module whose inputs C averages, or of each of them.
            width: Length D of those inputs.
        """
        if not self.second_moment:
            return ()
        paths = [paths] if isinstance(paths, str) else paths
        files: Sequence[str | None] = self.files_for(paths, "the editor") or [None] * len(paths)
        return tuple(
            RequiredStatistic(
                path,
                width,
                None if file else self.corpus,
                self.corpus_tokens,
                file,
                self.corpus_order,
                self.corpus_seed,
                self.corpus_row_tokens,
            )
            for path, file in zip(paths, files, strict=True)
        )
