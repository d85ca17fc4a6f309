"""Records with every kind of prompt, and edits with a visible effect on a tiny model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from editkit.data_types import EditRequest, Probe, Record
from editkit.editing.deltas import LowRank, WeightDelta
from editkit.models.language_model import LanguageModel

__all__ = ["RECORDS", "random_edits"]


def _record(case_id: int, request: EditRequest, others: Sequence[str]) -> Record:
    """A record; the number of its prompts depends on the case."""
    true = request.target_true or "Rome"
    sentence, subject = request.sentence, request.subject
    about = tuple(Probe(f"{subject} {end}", "France", "Italy") for end in ("works in", "is near"))
    return Record(
        case_id,
        request,
        probes={
            "rewrite": (Probe(sentence, true, request.target_new),),
            "paraphrase": tuple(
                Probe(f"{before} {sentence}", true, request.target_new)
                for before in ("They say:", "It is known that", "Windows.")[: case_id + 1]
            ),
            "neighborhood": tuple(
                Probe(request.prompt.replace("{}", other), true, request.target_new)
                for other in others
            ),
            "attribute": (Probe(f"The capital is {subject}, and", request.target_new, true),),
            "same_subject": about[: case_id + 1],
        },
        texts={
            "generation": (f"{subject} is", f"In the city of {subject}")[: case_id + 1],
            "reference": (f"{subject} and {request.target_new} are in the field of physics.",),
            "essence": (f"{subject} is a city in France.",),
        },
    )


RECORDS = (
    _record(
        0,
        EditRequest("{} is in the city of", "The Space Needle", "Paris", "Seattle"),
        ["Microsoft", "The field"],
    ),
    _record(
        1,
        EditRequest("The mother tongue of {} is", "Danielle Darrieux", "Italian words", "French"),
        ["Zoë Müller"],
    ),
    _record(
        2,
        EditRequest("{} was created by", "Mario Kart", "Microsoft", "Nintendo", "P178"),
        ["Windows", "Rome", "The capital of France"],
    ),
)


def random_edits(model: LanguageModel, records: Sequence[Record]) -> list[WeightDelta]:
    """A deterministic rank-one edit per record, as large as the weight that it changes."""
    path = model.path(model.n_layers // 2, "mlp_out")
    name = f"{path}.weight"
    weight = model.hf.get_parameter(name).detach()
    hidden = model.hidden_size
    inner = weight.numel() // hidden
    edits = []
    for record in records:
        generator = torch.Generator().manual_seed(record.case_id)
        left = torch.randn(inner, 1, generator=generator)  # (in, 1)
        right = torch.randn(1, hidden, generator=generator)  # (1, out)
        size = float(weight.float().norm()) / float(left.norm() * right.norm())
        edits.append(
            WeightDelta(
                changes={name: LowRank(size * left, right)},
                request=record.request,
                editor="random",
                config={},
                model_fingerprint=model.fingerprint,
            )
        )
    return edits
