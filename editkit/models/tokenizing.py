"""Texts as tokens: which special tokens belong there, and which texts cannot be used.

Every text gets exactly the special tokens that its tokenizer puts in front, once, and none of those
that it puts behind: an end token after a prompt would be read as the end of the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from editkit.errors import ModelError, RequestError
from editkit.models.encoding import Encoding

__all__ = ["SpecialTokens", "check_covered", "check_unicode", "check_vocabulary", "encoded"]

_SHOWN = 60


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int, *, name: str) -> None:
    """Refuse a tokenizer that gives token ids for which the model has no embedding.

    Args:
        tokenizer: The tokenizer, its added tokens included.
        rows: Number of rows of the embedding.
        name: The model, for the message.

    Raises:
        ModelError: It does.
    """
    size = max(tokenizer.get_vocab().values(), default=-1) + 1
    if size > rows:
        raise ModelError(
            f"the tokenizer of {name!r} has token ids up to {size - 1}, but the embedding has only "
            f"{rows} rows (ids 0 to {rows - 1}).",
            hint="Use the tokenizer that the model was trained with, or enlarge the embedding with "
            "model.resize_token_embeddings(len(tokenizer)) and save both.",
        )


class SpecialTokens:
    """The special tokens of a tokenizer, and where texts may hold them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        added = tokenizer.added_tokens_decoder.values()
        texts = {*tokenizer.all_special_tokens, *(each.content for each in added if each.special)}
        unknown = str(tokenizer.unk_token or "")
        # A token such as "!" may serve for padding: only what no text contains by itself counts.
        texts = {text for text in texts if len(text) > 2 and not text.isalnum()}
        # An unknown token is written for what the tokenizer does not know; as a text it is as bad.
        longest_first = sorted(texts | ({unknown} - {""}), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._begin = str(tokenizer.bos_token or tokenizer.cls_token or "")
        self.ids = frozenset(tokenizer.all_special_ids)
        same = unknown in (tokenizer.bos_token, tokenizer.eos_token)
        self.unknown: int | None = None if same or not unknown else tokenizer.unk_token_id

    def check(self, text: str, what: str) -> None:
        """Refuse a text that holds a special token.

        Raises:
            RequestError: It does.
        """
        found = self._pattern.search(text)
        if found:
            raise RequestError(
                f"{what} {text!r:.{_SHOWN}} holds the special token {found[0]!r}, which the "
                "tokenizer would not read as text.",
                hint="Leave it out; a prompt in a model's chat format is asked for with chat.",
            )

    def check_prompt(self, text: str) -> None:
        """Refuse a prompt that holds a special token in the middle of ordinary text.

        A prompt that begins with one was written in the model's own format: its special tokens are
        what its writer meant, but the token that begins a text may be there only once.

        Raises:
            RequestError: It holds one.
        """
        found = self._pattern.search(text)
        if found is None:
            return
        if found.start() > 0:
            self.check(text, "prompt")
        if self._begin and self._begin in text[len(self._begin) :]:
            raise RequestError(
                f"prompt {text!r:.{_SHOWN}} holds {self._begin!r}, which begins a text, more than "
                "once.",
                hint="Leave it out: it is put in front where the model wants it.",
            )


def encoded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Encoding]:
    """Encode whole sentences, special tokens in front once, none behind.

    Args:
        tokenizer: A fast tokenizer.
        texts: The texts.

    Returns:
        One for each; without tokens for a text that the tokenizer drops.

    Raises:
        RequestError: A text is not valid Unicode.
    """
    for text in texts:
        check_unicode(text)
    batch = tokenizer(
        list(texts),
        return_offsets_mapping=True,
        return_token_type_ids=False,
        return_attention_mask=False,
        return_special_tokens_mask=True,
        verbose=False,  # texts that are too long are reported where they are used
    )
    columns = (batch["input_ids"], batch["offset_mapping"], batch["special_tokens_mask"])
    return [_trimmed(*row) for row in zip(texts, *columns, strict=True)]


def check_unicode(text: str) -> None:
    """Refuse a text that cannot be encoded.

    Raises:
        RequestError: It holds half of a surrogate pair.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            f"text {text!a:.{_SHOWN}} is not valid Unicode: character {error.start} is half of a "
            "surrogate pair.",
            hint="Decode the text again; JSON writes such a character as two \\u escapes.",
        ) from None


def check_covered(
    texts: Sequence[str], encodings: Sequence[Encoding], *, name: str, known: set[str]
) -> Sequence[Encoding]:
    """The encodings of texts, once their tokens are known to cover them.

    Args:
        texts: The texts.
        encodings: The whole of each.
        name: The model, for messages.
        known: Texts that were found to be covered before; more are added.

    Raises:
        RequestError: The tokenizer drops a part of a text.
    """
    for text, encoding in zip(texts, encodings, strict=True):
        if text in known:
            continue
        if lost := dropped(text, encoding):
            raise RequestError(
                f"the tokenizer of {name} drops {lost!r:.60} of the text {text!r:.60}.",
                hint="Write it in characters that the model knows.",
            )
        known.add(text)
    return encodings


def dropped(text: str, encoding: Encoding) -> str:
    """The characters of a text that no token covers: those that its tokenizer cannot write.

    Spaces, control characters and combining marks do not count: normalisers take them out on
    purpose. Where others are dropped, tokenizers also give wrong offsets.

    Args:
        text: The text.
        encoding: The whole of it, its offsets not shifted.
    """
    end, gaps = 0, []
    for first, last in (*encoding.offsets, (len(text), len(text))):
        if first > end:
            gaps.append(text[end:first])
        end = max(end, last)
    return "".join(c for gap in gaps for c in gap if unicodedata.category(c)[0] not in "ZCM")


def _trimmed(
    text: str, ids: Sequence[int], offsets: Sequence[Sequence[int]], added: Sequence[int]
) -> Encoding:
    """A tokenizer's output without special tokens behind, or those in front that the text has."""
    own = [i for i, mark in enumerate(added) if not mark]
    if not own:
        return Encoding((), ())
    begin, end = own[0], own[-1] + 1
    # Tokens in front that the text begins with itself, as every chat template does, are there once.
    first = next(i for i in range(begin + 1) if ids[i:begin] == ids[begin : 2 * begin - i])
    if first == begin:
        spans = tuple((a, b) for a, b in offsets[:end])
        return Encoding(tuple(ids[:end]), spans, text)
    kept = [*range(first), *range(begin, end)]
    spans = tuple((offsets[i][0], offsets[i][1]) for i in kept)
    return Encoding(tuple(ids[i] for i in kept), spans, text)
