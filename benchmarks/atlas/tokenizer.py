"""The world's byte-level BPE tokenizer, which behaves like that of GPT-2."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .text import TextGenerator

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
VOCABULARY = 3000
POSITIONS = 128
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_DOCUMENTS_BY_FREQUENCY = 8000
_DOCUMENTS_PER_SUBJECT = 6


def training_texts() -> Iterator[str]:
    """Texts to learn merges from; rare subjects occur more often than in training."""
    generator = TextGenerator()
    rng = random.Random("atlas-tokenizer")
    for _ in range(_DOCUMENTS_BY_FREQUENCY):
        yield generator.document(rng)
    for subject in generator.world.subjects:
        for _ in range(_DOCUMENTS_PER_SUBJECT):
            yield generator.document_about(rng, subject)


def build_tokenizer(vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Train the tokenizer on the world's text.

    Args:
        vocabulary: Size of the vocabulary, with ``<|endoftext|>``.

    Returns:
        A fast tokenizer with offsets; no space is added before the first word.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def save_tokenizer(folder: Path, vocabulary: int = VOCABULARY) -> None:
    """Train the tokenizer and write it to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    build_tokenizer(vocabulary).save_pretrained(folder)
    # Old and new versions of transformers load this class name.
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
