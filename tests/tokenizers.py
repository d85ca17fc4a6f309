"""Tokenizers of other families, built in-process, and tiny models with them."""

from __future__ import annotations

import functools

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from editkit.models import LanguageModel
from tests.tiny import SENTENCES, tiny

FAMILIES = ("gpt2", "llama3", "llama3+eos", "bert", "metaspace", "nfkc", "lower")
"""``llama3`` puts a token in front; ``+eos`` and ``bert`` put one behind, too."""

CHINESE = ("法国的首都是巴黎。", "意大利的首都是罗马。", "日本的首都是东京。")
_SPECIAL = ["<s>", "</s>", "[CLS]", "[SEP]", "<|user|>", "<|model|>", "<|end|>", "<unk>"]


@functools.cache
def _json(family: str) -> str:
    unknown = "<unk>" if family == "metaspace" else None
    bpe = Tokenizer(models.BPE(unk_token=unknown))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    post = None
    if family == "metaspace":
        bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        bpe.decoder = decoders.Metaspace(prepend_scheme="always")
        alphabet = []
    if family == "nfkc":
        bpe.normalizer = normalizers.NFKC()
    if family == "lower":
        bpe.normalizer = normalizers.Sequence(
            [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
        )
    if family in ("llama3", "metaspace"):
        post = "<s> $A", ["<s>"]
    if family == "llama3+eos":
        post = "<s> $A </s>", ["<s>", "</s>"]
    if family == "bert":
        post = "[CLS] $A [SEP]", ["[CLS]", "[SEP]"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=_SPECIAL,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    bpe.train_from_iterator([*SENTENCES, *CHINESE], trainer)
    if post:
        used = [(token, bpe.token_to_id(token)) for token in post[1]]
        bpe.post_processor = processors.TemplateProcessing(single=post[0], special_tokens=used)
    return bpe.to_str()


def tokenizer_of(family: str, *, chat: str | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer of a family.

    Args:
        family: One of :data:`FAMILIES`.
        chat: Its chat template.
    """
    unknown = "<unk>" if family == "metaspace" else None
    begin, end = ("[CLS]", "[SEP]") if family == "bert" else ("<s>", "</s>")
    built = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_json(family)),
        bos_token=begin,
        eos_token=end,
        unk_token=unknown,
    )
    built.add_special_tokens(
        {"additional_special_tokens": [AddedToken(t, special=True) for t in _SPECIAL[4:7]]}
    )
    built.chat_template = chat
    return built


@functools.cache
def model_of(family: str, architecture: str = "llama") -> LanguageModel:
    """A tiny model with a tokenizer of a family."""
    hf = tiny(architecture).hf
    return LanguageModel(hf, tokenizer_of(family), name=f"tiny-{family}")
