"""The published numbers: loading them, and comparing with them."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from editkit import EditRequest
from editkit.models import LanguageModel
from editkit.registry.models import load_model


class Parity:
    """The parity folder of the shared test data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._arrays: dict[str, dict[str, Tensor]] = {}

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def arrays(self, name: str) -> dict[str, Tensor]:
        if name not in self._arrays:
            self._arrays[name] = load_file(self.folder / name / "arrays.safetensors")
        return self._arrays[name]

    def tensors(self, name: str) -> dict[str, Tensor]:
        return load_file(self.folder / f"{name}.safetensors")

    @functools.cached_property
    def model(self) -> LanguageModel:
        return load_model(str(self.folder / "model"))

    @functools.cached_property
    def gptj(self) -> LanguageModel:
        """The random GPT-J, with the tokenizer that it was tested with."""
        from transformers import GPTJForCausalLM

        folder = self.folder / "extra_models" / "gptj_random" / "model"
        hf = GPTJForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return LanguageModel(hf, self.model.tokenizer, name="gptj-random")

    @functools.cached_property
    def requests(self) -> list[EditRequest]:
        return [
            EditRequest(r["prompt"], r["subject"], r["target_new"]["str"], r["target_true"]["str"])
            for r in self.json("rome/requests.json")
        ]

    @functools.cached_property
    def contexts(self) -> tuple[str, ...]:
        """Context texts; the empty first one is left out."""
        templates = self.json("rome/context_templates.json")
        return tuple(template.removesuffix("{}") for template in templates[1:])


def difference(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference, relative to what was expected."""
    actual, expected = actual.detach().double(), expected.double()
    return float((actual - expected).norm() / expected.norm())


def requests_of(parity: Parity, folder: str) -> list[EditRequest]:
    """The requests of a method's folder, in order."""
    requests = parity.json(f"{folder}/requests.json")
    return [
        EditRequest(r["prompt"], r["subject"], r["target_new"]["str"], r["target_true"]["str"])
        for r in requests
    ]


def symmetric(upper: Tensor) -> Tensor:
    """A symmetric matrix, (D, D), from its upper triangle, row by row."""
    size = int(((8 * len(upper) + 1) ** 0.5 - 1) / 2)
    matrix = upper.new_zeros(size, size)
    matrix[tuple(torch.triu_indices(size, size))] = upper
    return matrix + matrix.triu(1).T


def logits_at(model: LanguageModel, texts: list[str]) -> Tensor:
    """Logits after the last token of each text, by transformers alone, (texts, V)."""
    rows = []
    for text in texts:
        ids = model.tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            rows.append(model.hf(input_ids=ids).logits[0, -1])
    return torch.stack(rows)
