"""Plain scoring: one edited model at a time, whole texts, logits at every token."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from editkit import LanguageModel, Probe
from editkit.models.encoding import padded
from editkit.models.running import forward


def probe_nll(model: LanguageModel, probes: Sequence[Probe]) -> list[tuple[float, float]]:
    """Mean NLL per token of both answers of each probe, all texts of a record in one batch.

    Returns:
        (new, true) for each probe, in nats.
    """
    prompts = [probe.prompt for probe in probes for _ in range(2)]
    answers = [answer for probe in probes for answer in (probe.target_new, probe.target_true)]
    completions = model.complete(prompts, answers)
    with torch.no_grad():
        ids = padded([c.prompt + c.target for c in completions], model.device)  # (B, T)
        log_p = torch.log_softmax(model.head(forward(model, ids)), dim=-1)  # (B, T, V)
    means = []
    for b, completion in enumerate(completions):
        start, n = len(completion.prompt) - 1, len(completion.target)
        wanted = torch.tensor(completion.target, device=model.device)
        read = log_p[b, start : start + n].gather(1, wanted[:, None])  # (n, 1)
        means.append(-float(read.mean()))
    return list(zip(means[::2], means[1::2], strict=True))
