"""The models that speed is measured on, by shape. Weights are random where only time matters."""

from __future__ import annotations

import functools

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from editkit import LanguageModel, Record, load_model
from editkit_benchmarks.atlas.dataset import AtlasConfig, AtlasDataset


@functools.cache
def atlas() -> LanguageModel:
    """The embedded model: a GPT-2 with 6 layers and H = 128."""
    return load_model("atlas")


@functools.cache
def gpt2_small() -> LanguageModel:
    """GPT-2 small's shape with random weights, and atlas's tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0))
    return LanguageModel(hf, atlas().tokenizer, name="gpt2-small-random")


@functools.cache
def first_records(n: int) -> tuple[Record, ...]:
    """The first test records of the embedded world, in CounterFact's layout."""
    return AtlasDataset(AtlasConfig()).load().records[:n]
