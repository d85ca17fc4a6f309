"""Train small models that nobody tuned settings for, to choose defaults by.

    python -m editkit_benchmarks.sweeps.models memorised OUT

``memorised``: a GPT-2 with 8 layers that has seen each of 200 facts in two wordings only, until it
recalls all of them. ``llama``: a Llama with 8 layers, trained on the text of the embedded world.
``neox``: a GPT-NeoX with 6 layers, whose attention and MLP are parallel, trained like ``llama``.
All use the tokenizer and facts of the embedded world.
"""

from __future__ import annotations

import argparse
import functools
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from editkit_benchmarks.atlas import model_path
from editkit_benchmarks.atlas.text import TextGenerator
from editkit_benchmarks.atlas.world import load_world

FACTS = 200
STEPS = {"memorised": 700, "llama": 900, "neox": 900}
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


def neox(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """An untrained GPT-NeoX with 6 layers."""
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(tokenizer), max_position_embeddings=128, hidden_size=128,
            intermediate_size=512, num_hidden_layers=6, num_attention_heads=4,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip


MODELS: dict[str, Callable[[PreTrainedTokenizerBase], PreTrainedModel]] = {
    "memorised": memorised,
    "llama": llama,
    "neox": neox,
}


@functools.cache
def memorised_facts() -> list[tuple[tuple[str, ...], str, str]]:
    """Two wordings, subject and object of each fact that ``memorised`` has seen."""
    facts = list(load_world().all_facts())
    chosen = random.Random("memorised").sample(facts, FACTS)
    return [(fact.seen[:2], fact.subject, fact.object) for fact in chosen]


def texts_of(name: str, step: int) -> Iterator[str]:
    """An endless stream of training texts, a function of the model and the step."""
    rng = random.Random(f"{name}-{step}")
    if name == "memorised":
        facts = memorised_facts()
        while True:
            wordings, subject, answer = rng.choice(facts)
            yield f"{rng.choice(wordings).format(subject)} {answer}."
    generator = TextGenerator()
    while True:
        yield generator.document(rng)


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
        steps: Steps of the optimiser; by default those of :data:`STEPS`.
        seed: Of the initial weights.
    """
    steps = STEPS[name] if steps is None else steps
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
