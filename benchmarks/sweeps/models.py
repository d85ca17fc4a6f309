"""Train small models that nobody tuned settings for, to choose defaults by.

    python -m editkit_benchmarks.sweeps.models memorised OUT

Both know 200 facts of the embedded world and use its tokenizer. ``memorised``: a GPT-2 with 8
layers that has seen each fact in two wordings only. ``llama``: a Llama with 8 layers that has seen
each fact in all wordings of the training text. The facts are written to ``OUT/facts.json`` in the
layout of ``editkit compile-dataset --facts``.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from editkit_benchmarks.atlas import model_path
from editkit_benchmarks.atlas.world import Fact, load_world

FACTS = 200
STEPS = 700
_ROWS, _TOKENS = 16, 64


def memorised(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """An untrained GPT-2 with 8 layers."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer), n_positions=128, n_embd=64, n_layer=8, n_head=4,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip


def llama(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """An untrained Llama with 8 layers and grouped queries."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=128, hidden_size=96,
            intermediate_size=256, num_hidden_layers=8, num_attention_heads=4,
            num_key_value_heads=2, tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip


MODELS: dict[str, Callable[[PreTrainedTokenizerBase], PreTrainedModel]] = {
    "memorised": memorised,
    "llama": llama,
}


@functools.cache
def facts_of(name: str) -> tuple[Fact, ...]:
    """The facts that a model sees, each with the wordings that it sees them in."""
    chosen = random.Random("memorised").sample(list(load_world().all_facts()), FACTS)
    seen = 2 if name == "memorised" else None
    return tuple(dataclasses.replace(fact, seen=fact.seen[:seen]) for fact in chosen)


def fact_file(name: str) -> str:
    """The facts as JSON, by relation, with the wordings that the model has seen."""
    relations: dict[str, dict[str, Any]] = {}
    for fact in facts_of(name):
        of = load_world().relations[fact.relation]
        relation = relations.setdefault(
            fact.relation, {"wordings": of.wordings, "generation": of.generation, "facts": []}
        )
        relation["facts"].append(
            {
                "subject": fact.subject,
                "object": fact.object,
                "wordings": fact.seen,
                "rephrasings": fact.seen,
            }
        )
    return json.dumps(relations, indent=1) + "\n"


def texts_of(name: str, step: int) -> Iterator[str]:
    """An endless stream of training texts, a function of the model and the step."""
    rng = random.Random(f"{name}-{step}")
    while True:
        fact = rng.choice(facts_of(name))
        yield f"{rng.choice(fact.seen).format(fact.subject)} {fact.object}."


def batch(name: str, tokenizer: PreTrainedTokenizerBase, step: int) -> torch.Tensor:
    """Packed texts, each followed by an end token, (rows, tokens)."""
    ids: list[int] = []
    for text in texts_of(name, step):
        ids += [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        if len(ids) >= _ROWS * _TOKENS:
            break
    return torch.tensor(ids[: _ROWS * _TOKENS]).view(_ROWS, _TOKENS)


def train(name: str, out: Path, *, steps: int | None = None, seed: int = 0) -> None:
    """Train a model and save it with its tokenizer.

    Args:
        name: One of :data:`MODELS`.
        out: Folder for the model.
        steps: Steps of the optimiser; by default :data:`STEPS`.
        seed: Of the initial weights.
    """
    steps = STEPS if steps is None else steps
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    torch.manual_seed(seed)
    model = MODELS[name](tokenizer).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in tqdm(range(steps), desc=name, file=sys.stderr):
        ids = batch(name, tokenizer, step)
        logits = model(ids).logits  # (rows, tokens, V)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
    sys.stderr.write(f"{name}: loss {loss.item():.3f}\n")
    model.eval().save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "facts.json").write_text(fact_file(name), encoding="utf-8")


def main() -> int:
    """Train one model."""
    parser = argparse.ArgumentParser(prog="editkit_benchmarks.sweeps.models", description=__doc__)
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("out", type=Path, help="folder for the model")
    parser.add_argument("--steps", type=int, help="steps of the optimiser")
    args = parser.parse_args()
    train(args.name, args.out, steps=args.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
