"""Tiny models with random weights, and a byte-level tokenizer trained on a few sentences.

They are built in milliseconds, for every known architecture, without network or files.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from editkit.models.language_model import LanguageModel

__all__ = ["ARCHITECTURES", "SENTENCES", "tiny_model", "tiny_tokenizer"]

SENTENCES = (
    "The Space Needle is in the city of Seattle.",
    "The mother tongue of Danielle Darrieux is French.",
    "Mario Kart was created by Nintendo, and Windows by Microsoft.",
    "Paris is the capital of France; Rome is the capital of Italy.",
    "Zoë Müller works in the field of physics in São Paulo.",
)
_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)
_SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
_GPT_SIZES: dict[str, Any] = {"n_embd": 32, "n_layer": 4, "n_head": 4}
_GROUPED: dict[str, Any] = {
    **_SIZES, "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip
_THREE_OF_FOUR = ["sliding_attention"] * 3 + ["full_attention"]
_EXPERTS: dict[str, Any] = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}  # fmt: skip
_LLAMA: dict[str, Any] = {**_SIZES, "intermediate_size": 64, "num_key_value_heads": 2}
_ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4}
_HEADS_OF_8: dict[str, Any] = {**_LLAMA, "head_dim": 8}
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", _GPT_SIZES),
    "gptj": ("GPTJConfig", {**_GPT_SIZES, "rotary_dim": 4}),
    "gpt_neox": ("GPTNeoXConfig", {**_SIZES, "intermediate_size": 64}),
    "opt": ("OPTConfig", {**_SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32, "pad_token_id": 1}),
    "llama": ("LlamaConfig", _LLAMA),
    "mistral": ("MistralConfig", _LLAMA),
    "qwen2": ("Qwen2Config", _LLAMA),
    "qwen3": ("Qwen3Config", _HEADS_OF_8),
    "gemma": ("GemmaConfig", _HEADS_OF_8),
    **{
        # the fourth layer sees all tokens, the others a window of them
        name: (f"{cls}Config", {**_GROUPED, "sliding_window": 4, "layer_types": _THREE_OF_FOUR})
        for name, cls in [("gemma2", "Gemma2"), ("gemma3_text", "Gemma3Text"), ("olmo3", "Olmo3"),
                          ("exaone4", "Exaone4")]
    },
    **{name: (f"{cls}Config", _GROUPED) for name, cls in [("olmo2", "Olmo2"), ("glm4", "Glm4")]},
    "mixtral": ("MixtralConfig", {**_GROUPED, "num_local_experts": 4}),
    **{
        # layer 1 has no experts
        name: (f"{cls}Config", {**_GROUPED, **_EXPERTS, "mlp_only_layers": [1]})
        for name, cls in [("qwen2_moe", "Qwen2Moe"), ("qwen3_moe", "Qwen3Moe")]
    },
    "olmoe": ("OlmoeConfig", {**_GROUPED, **_EXPERTS}),
    "gpt_oss": ("GptOssConfig", {
        **_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    }),
    # scaled logits, embeddings, attention and residual stream
    "granite": (
        "GraniteConfig",
        {
            **_LLAMA,
            "residual_multiplier": 1.5,
            "logits_scaling": 0.25,
            "embedding_multiplier": 0.5,
            "attention_multiplier": 0.5,
        },
    ),
    "cohere": ("CohereConfig", {**_LLAMA, "logit_scale": 3.0}),
    "cohere2": ("Cohere2Config", {**_LLAMA, "logit_scale": 3.0}),
    # gate and values in one projection
    "phi3": ("Phi3Config", {**_LLAMA, "pad_token_id": 0}),
    "glm": ("GlmConfig", {**_HEADS_OF_8, "pad_token_id": 0}),
    # attention and MLP side by side
    "phi": ("PhiConfig", _LLAMA),
    "stablelm": ("StableLmConfig", _LLAMA),
    "falcon": ("FalconConfig", _SIZES),
    "codegen": ("CodeGenConfig", {**_GPT_SIZES, "rotary_dim": 4}),
    # distance biases instead of positions
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 4, "n_head": 4}),
    "mpt": ("MptConfig", {"d_model": 32, "n_layers": 4, "n_heads": 4}),
    # an MLP without a gate
    "starcoder2": ("Starcoder2Config", _LLAMA),
    "nemotron": ("NemotronConfig", _LLAMA),
    "arcee": ("ArceeConfig", _LLAMA),
    "apertus": ("ApertusConfig", {**_LLAMA, "rope_parameters": _ROPE}),
    "jais2": ("Jais2Config", _LLAMA),
    "nanochat": ("NanoChatConfig", _LLAMA),
    "persimmon": ("PersimmonConfig", {**_SIZES, "intermediate_size": 64}),
    "gpt_bigcode": ("GPTBigCodeConfig", _GPT_SIZES),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "hidden_size": 32,
            "num_layers": 4,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 2]],
            "window_size": 32,
        },
    ),
    # Llama with other norms, positions or heads
    "olmo": ("OlmoConfig", _LLAMA),
    "smollm3": ("SmolLM3Config", {**_LLAMA, "pad_token_id": 0}),
    "ministral": ("MinistralConfig", _HEADS_OF_8),
    "ministral3": (
        "Ministral3Config",
        # queries grow every 4 tokens
        {
            **_HEADS_OF_8,
            "rope_parameters": {
                **_ROPE, "llama_4_scaling_beta": 0.5, "original_max_position_embeddings": 4,
            },
        },
    ),
    "helium": ("HeliumConfig", _HEADS_OF_8),
    "seed_oss": ("SeedOssConfig", _HEADS_OF_8),
    "hunyuan_v1_dense": ("HunYuanDenseV1Config", _HEADS_OF_8),
    "ernie4_5": ("Ernie4_5Config", _HEADS_OF_8),
    "exaone": ("ExaoneConfig", _LLAMA),
    "iquestcoder": ("IQuestCoderConfig", _LLAMA),
    "cwm": ("CwmConfig", {**_HEADS_OF_8, "rope_parameters": _ROPE}),
    "vaultgemma": ("VaultGemmaConfig", _HEADS_OF_8),
}  # fmt: skip
ARCHITECTURES = tuple(_CONFIGS)


@functools.cache
def _trained(begin: bool, end: bool) -> str:
    """The tokenizer as JSON, so that changes to one copy do not affect others."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(SENTENCES, trainer)
    if begin or end:
        around = ["<|endoftext|>"] * begin, ["<|endoftext|>"] * end
        bpe.post_processor = processors.TemplateProcessing(
            single=" ".join([*around[0], "$A", *around[1]]),
            special_tokens=[("<|endoftext|>", 0)],
        )
    return bpe.to_str()


def tiny_tokenizer(
    *, begin: bool = False, end: bool = False, padding_side: str = "right"
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of up to 400 tokens, which encodes any text; with a chat template.

    Args:
        begin: Whether a start token is put before every text.
        end: Whether it puts an end token behind every text (``add_eos_token``).
        padding_side: ``right`` or ``left``.
    """
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(begin, end)),
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        padding_side=padding_side,
        chat_template=_TEMPLATE,
    )


def tiny_model(
    architecture: str = "gpt2",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    begin: bool = False,
    end: bool = False,
    padding_side: str = "right",
    scale: float = 4.0,
    context_length: int = 64,
    **changes: Any,
) -> LanguageModel:
    """A random model of 4 layers, 32 wide, with 4 heads.

    Args:
        architecture: One of :data:`ARCHITECTURES`.
        seed: Seed of the weights; global random states are not changed.
        dtype: Type of the weights.
        begin: Whether the tokenizer puts a start token before every text.
        end: Whether the tokenizer puts an end token behind every text.
        padding_side: The tokenizer's padding side.
        scale: Factor on the usual initial weights, so that what they say matters.
        context_length: Most tokens of one input.
        changes: Other values of the transformers config.
    """
    config_class, sizes = _CONFIGS[architecture]
    own_names = {"mpt": "max_seq_len", "bloom": "seq_length"}
    usual = "n_positions" if "n_embd" in sizes else "max_position_embeddings"
    context = own_names.get(architecture, usual)
    values = {
        **sizes,
        context: context_length,
        "vocab_size": 400,
        "bos_token_id": 0,
        "eos_token_id": 0,
        **changes,
    }
    config = getattr(transformers, config_class)(**values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hf = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, weight in hf.named_parameters():
                if weight.ndim > 1:
                    weight.mul_(scale)
                elif name.endswith("bias"):
                    weight.normal_(std=0.1)
    return LanguageModel(
        hf.to(dtype),
        tiny_tokenizer(begin=begin, end=end, padding_side=padding_side),
        name=f"tiny-{architecture}",
    )
