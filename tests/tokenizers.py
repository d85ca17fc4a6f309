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
_TURNS = [
    "<|user|>",
    "<|model|>",
    "<|end|>",
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<|im_start|>", "<|im_end|>"),
    *("<start_of_turn>", "<end_of_turn>"),
]
_SPECIAL = ["<s>", "</s>", "[CLS]", "[SEP]", *_TURNS, "<unk>"]


TEMPLATES = {
    "llama3": (
        "{{ bos_token }}"
        "<|start_header_id|>system<|end_header_id|>\n\n"
        "Today: {{ strftime_now('%d %b %Y') }}<|eot_id|>"
        "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
        "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% for m in messages %}"
        "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
        "<start_of_turn>{{ role }}\n{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}"
        "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    ),
}
"""Chat templates in the style of four families."""


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
        {"additional_special_tokens": [AddedToken(t, special=True) for t in _TURNS]}
    )
    built.chat_template = chat
    return built


@functools.cache
def model_of(
    family: str,
    architecture: str = "llama",
    *,
    template: str | None = None,
    context_length: int = 64,
) -> LanguageModel:
    """A tiny model with a tokenizer of a family, and a chat template if one is named.

    Args:
        family: One of :data:`FAMILIES`.
        architecture: Of the model.
        template: One of :data:`TEMPLATES`, or a template.
        context_length: Most tokens of one input.
    """
    hf = tiny(architecture, context_length=context_length).hf
    chat = None if template is None else TEMPLATES.get(template, template)
    return LanguageModel(hf, tokenizer_of(family, chat=chat), name=f"tiny-{family}")
