"""Training of the embedded model from scratch: seeded, with progress, resumable after a kill.

A batch depends only on (seed, step), so a run that was killed and resumed gives the same weights as
one that was not.
"""

from __future__ import annotations

import errno
import json
import math
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from editkit.storage.cache import write_atomically
from editkit.storage.checkpoints import (
    load_optimizer_tensors,
    optimizer_tensors,
    read_checkpoint,
    write_checkpoint,
)

from .text import TextGenerator
from .tokenizer import POSITIONS, TOKENIZER_FILES

_CHECKPOINT = "checkpoint.safetensors"
# The function of GPT-2's gelu_new in one kernel.
_FAST_GELU = "gelu_pytorch_tanh"


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that determines the trained weights.

    Attributes:
        seed: Seed of the initial weights and the text.
        steps: Optimiser steps, the length of the learning rate's cosine. Sets the difficulty.
        layers: Number of blocks.
        hidden: Hidden size H.
        heads: Attention heads.
        rows: Rows per batch.
        row_tokens: Tokens per row. Every fourth batch has half as many rows of twice the length, to
            train the later positions.
        learning_rate: AdamW's peak learning rate.
        warmup: Steps of linear warm-up.
        weight_decay: Weight decay of matrices; biases, gains and embeddings have none.
    """

    seed: int = 0
    steps: int = 1700
    layers: int = 6
    hidden: int = 128
    heads: int = 4
    rows: int = 48
    row_tokens: int = POSITIONS // 2
    learning_rate: float = 3e-3
    warmup: int = 60
    weight_decay: float = 0.01


class Batches:
    """The training batches, each a function of (seed, step)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: TrainingConfig) -> None:
        self._tokenizer = tokenizer
        self._config = config
        self._generator = TextGenerator()

    def batch(self, step: int) -> torch.Tensor:
        """Pack documents into rows; each row starts with a document's first token.

        Returns:
            Token ids, (rows, row_tokens), or (rows / 2, 2 * row_tokens) in every fourth step.
        """
        config = self._config
        long = step % 4 == 3
        height = config.rows // 2 if long else config.rows
        width = 2 * config.row_tokens if long else config.row_tokens
        rng = random.Random(f"atlas-text-{config.seed}-{step}")
        end = self._tokenizer.eos_token_id
        rows: list[list[int]] = [[]]
        while len(rows) <= height:
            texts = [self._generator.document(rng) for _ in range(height)]
            for ids in self._tokenizer(texts)["input_ids"]:
                rows[-1].extend([*ids, end])
                if len(rows[-1]) >= width:
                    rows.append([])
        full = [row[:width] for row in rows[:height]]
        return torch.tensor(full)  # (rows, row_tokens)


def new_model(tokenizer: PreTrainedTokenizerBase, config: TrainingConfig) -> GPT2LMHeadModel:
    """The untrained model: GPT-2's architecture with tied embeddings and no dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(tokenizer),
                n_positions=POSITIONS,
                n_embd=config.hidden,
                n_layer=config.layers,
                n_head=config.heads,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                activation_function=_FAST_GELU,
                attn_implementation="eager",  # faster than a fused kernel on such short rows
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )


def _learning_rate(step: int, config: TrainingConfig) -> float:
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def _optimizer(model: GPT2LMHeadModel, config: TrainingConfig) -> torch.optim.AdamW:
    decayed = [p for n, p in model.named_parameters() if p.ndim == 2 and ".h." in n]
    chosen = {id(p) for p in decayed}
    others = [p for p in model.parameters() if id(p) not in chosen]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)


@dataclass
class Progress:
    """Completed steps."""

    step: int = 0


def train(
    out: Path,
    tokenizer_folder: Path,
    config: TrainingConfig | None = None,
    *,
    minutes: float | None = None,
    fresh: bool = False,
    checkpoint_every: int = 100,
    stop_after: int | None = None,
    quiet: bool = False,
) -> bool:
    """Train the model and save it with its tokenizer.

    Args:
        out: Folder for the model, and for the checkpoint until training is complete.
        tokenizer_folder: Folder of the tokenizer.
        config: The settings; by default those of the shipped model.
        minutes: Stop after this time; the same call resumes from the checkpoint.
        fresh: Discard an existing checkpoint.
        checkpoint_every: Steps between checkpoints.
        stop_after: Stop after this step with a checkpoint, as a kill would.
        quiet: Show no progress bar.

    Returns:
        Whether training is complete and the model saved.

    Raises:
        ConfigError: The checkpoint was written with other settings, or is damaged.
        CacheError: A checkpoint cannot be written; the same call resumes from the last one.
        OSError: The model cannot be written; the same call resumes from the last checkpoint.
    """
    config = config or TrainingConfig()
    if minutes is not None and not minutes > 0:
        raise ValueError(f"minutes is {minutes}; expected a time above 0")
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / _CHECKPOINT
    if fresh:
        checkpoint.unlink(missing_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    model = new_model(tokenizer, config).train()
    optimizer = _optimizer(model, config)
    stored = read_checkpoint(
        checkpoint, asdict(config), progress=Progress, groups=("weights", "optimizer")
    )
    if stored is not None:
        model.load_state_dict(stored.tensors["weights"])
        load_optimizer_tensors(optimizer, stored.tensors["optimizer"])
    first = stored.progress.step if stored is not None else 0
    batches = Batches(tokenizer, config)
    started = time.monotonic()
    with tqdm(
        total=config.steps, initial=first, desc="training", file=sys.stderr, disable=quiet
    ) as bar:
        for step in range(first, config.steps):
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(step, config)
            ids = batches.batch(step)  # (rows, row_tokens)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(ids).logits  # (rows, row_tokens, V)
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten()
            )
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done = step + 1
            bar.update()
            if done % 20 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
            out_of_time = minutes is not None and time.monotonic() - started > 60 * minutes
            if done == stop_after or out_of_time or done % checkpoint_every == 0:
                tensors = {
                    "weights": model.state_dict(),
                    "optimizer": optimizer_tensors(optimizer),
                }
                write_checkpoint(checkpoint, asdict(config), Progress(done), tensors)
            if (done == stop_after or out_of_time) and done < config.steps:
                return False
    _save(out, model.eval(), tokenizer_folder, config)
    checkpoint.unlink(missing_ok=True)
    return True


def _save(
    out: Path, model: GPT2LMHeadModel, tokenizer_folder: Path, config: TrainingConfig
) -> None:
    """Write tokenizer and model, each file atomically, the weights last."""
    for name in TOKENIZER_FILES:
        write_atomically(out / name, (tokenizer_folder / name).read_bytes())
    record = json.dumps(asdict(config), indent=2) + "\n"
    write_atomically(out / "training.json", record.encode())
    with tempfile.TemporaryDirectory() as folder:
        try:
            model.save_pretrained(folder)
        except SafetensorError as error:  # its writer reports a full disk in this way
            raise OSError(errno.EIO, str(error), folder) from error
        written = sorted(Path(folder).iterdir(), key=lambda file: file.suffix == ".safetensors")
        for file in written:
            write_atomically(out / file.name, file.read_bytes())
    (out / "model.safetensors").chmod(0o644)
