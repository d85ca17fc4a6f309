"""How good an editor is while it is trained: ES, PS, NS and S on records, losses on text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from editkit import EditedModels, Record, WeightDelta
from editkit.editing.edited import CandidateQuery
from editkit_plugins.learned.below import Below, Remembered
from editkit_plugins.learned.networks import EditNetwork
from editkit_plugins.learned.signals import signals
from editkit_plugins.learned.training.sources import Source
from editkit_plugins.learned.training.step import losses

_KINDS = {"ES": "rewrite", "PS": "paraphrase", "NS": "neighborhood"}
_TOGETHER = 32
_HELD_OUT = 64
_LOCALITY = 4


def validate(below: Remembered, network: EditNetwork, source: Source) -> dict[str, float]:
    """Scores as fractions, and losses in nats, on what training never sees.

    ``S``, the harmonic mean of ES, PS and NS, is there where the source has records.
    """
    with torch.no_grad():
        found = losses(below, network, source.held_out(_HELD_OUT, _LOCALITY))
    scores = {"edit": float(found.edit), "locality": float(found.locality)}
    if source.records:
        scores.update(_scores(below, network, source.records))
    return scores


def better(new: Mapping[str, float], old: Mapping[str, float] | None, edit_weight: float) -> bool:
    """Whether a validation beats another: by S, or by the whole loss where there is no S."""
    if old is None:
        return True
    if "S" in new:
        return new["S"] > old["S"]
    return _loss(new, edit_weight) < _loss(old, edit_weight)


def _loss(scores: Mapping[str, float], edit_weight: float) -> float:
    return edit_weight * scores["edit"] + scores["locality"]


def _scores(below: Below, network: EditNetwork, records: Sequence[Record]) -> dict[str, float]:
    means: dict[str, list[float]] = {name: [] for name in _KINDS}
    for start in range(0, len(records), _TOGETHER):
        chosen = records[start : start + _TOGETHER]
        models = EditedModels(below.model, _deltas(below, network, chosen))
        for name, kind in _KINDS.items():
            probes = [
                (edit, probe)
                for edit, record in enumerate(chosen)
                for probe in record.probes.get(kind, ())
            ]
            answers = models.candidate_nll(
                [
                    CandidateQuery(
                        edit,
                        probe.prompt,
                        (probe.target_new, probe.target_true),
                        probe.separator,
                        probe.chat,
                    )
                    for edit, probe in probes
                ]
            )
            wins: dict[int, list[float]] = {}
            for (edit, _), (new, true) in zip(probes, answers, strict=True):
                won = true < new if name == "NS" else new < true
                wins.setdefault(edit, []).append(float(won))
            means[name] += [sum(each) / len(each) for each in wins.values()]
    scores = {name: sum(column) / len(column) for name, column in means.items() if column}
    lowest_score = min(scores.values())
    inverse = sum(1 / score for score in scores.values()) if lowest_score else 0.0
    return {**scores, "S": len(scores) / inverse if inverse else 0.0}


def _deltas(below: Below, network: EditNetwork, records: Sequence[Record]) -> list[WeightDelta]:
    model = below.model
    requests = [record.request for record in records]
    facts = [each.completion for each in model.requested(requests)]
    edits = [[fact] for fact in facts]
    found = signals(below, edits, [m.path for m in network.matrices])
    with torch.no_grad():
        changes = network.changes(found, edits)
    fingerprint = model.fingerprint
    return [
        WeightDelta(
            {name: change.of(edit) for name, change in changes.items()},
            request,
            "training",
            {},
            fingerprint,
        )
        for edit, request in enumerate(requests)
    ]
