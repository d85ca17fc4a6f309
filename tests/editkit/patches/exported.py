"""Tiny models in folders, random edits of them, and logits, for the tests of exports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from torch import Tensor

from editkit import LanguageModel, WeightDelta, applied
from editkit.editing.changes import Change, Dense, LowRank, Rows
from editkit.models.weight_layout import input_major
from editkit.registry.models import load_model
from tests.tiny import tiny

IDS = torch.arange(20, 52)[None]  # (1, 32)


def saved(architecture: str, folder: Path, shard: str = "1GB", **options: object) -> Path:
    """A tiny model in a folder, with a tokenizer and a generation config."""
    model = tiny(architecture, **options)  # type: ignore[arg-type]
    model.hf.save_pretrained(folder, max_shard_size=shard)
    model.tokenizer.save_pretrained(folder)
    return folder


def shape_of(model: LanguageModel, name: str) -> tuple[int, ...]:
    """Shape of a change of a parameter: (in, out), or (out,)."""
    weight = model.hf.get_parameter(name)
    return tuple(input_major(model.module(name.rpartition(".")[0]), weight).shape)


def low_rank(shape: Sequence[int], rank: int = 2, seed: int = 0, size: float = 0.3) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(shape[0], rank, generator=generator) * size
    return LowRank(left, torch.randn(rank, shape[1], generator=generator) * size)


def dense(shape: Sequence[int], seed: int = 0) -> Dense:
    return Dense(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1)


def rows(shape: Sequence[int], *indices: int, seed: int = 0) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(indices), shape[1], generator=generator)
    return Rows(torch.tensor(indices), values, shape[0])


def edit_of(model: LanguageModel, changes: dict[str, Change]) -> WeightDelta:
    return WeightDelta(changes, None, "test", {}, model.fingerprint)


def mlp_edit(model: LanguageModel, layer: int = 1, seed: int = 0) -> WeightDelta:
    """A low-rank edit of one MLP's last projection."""
    name = f"{model.path(layer, 'mlp_out')}.weight"
    return edit_of(model, {name: low_rank(shape_of(model, name), seed=seed)})


def edited_logits(model: LanguageModel, deltas: WeightDelta | Sequence[WeightDelta]) -> Tensor:
    """(1, 32, vocabulary)"""
    with applied(model, deltas), torch.no_grad():
        return model.hf(input_ids=IDS).logits.clone()


def plain_logits(folder: Path, dtype: str = "auto") -> Tensor:
    """Logits of a folder that transformers alone loads: (1, 32, vocabulary)."""
    hf = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.no_grad():
        return hf(input_ids=IDS).logits


def loaded(folder: Path, dtype: str = "float32") -> LanguageModel:
    return load_model(str(folder), dtype=dtype)
