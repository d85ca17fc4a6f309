"""The training objective (Mitchell et al. 2022, section 3.2), and validation on held-out edits.

For an edit (x_e, y_e), a rephrased prompt x_e' and a fact x_loc that must stay::

    L_e   = -log p_edited(y_e | x_e'), per token               Losses.edit
    L_loc = KL(p_unedited(. | x_loc) || p_edited(. | x_loc))   Losses.locality
    L     = c_e * L_e + L_loc                                  Losses.total, c_e is edit_weight

All edits of a step share their passes, each row under its own change. Only the edited blocks and
those above them run; states below them, and the unedited model's states, are cached per text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from editkit import EditedModels, Record, WeightDelta
from editkit.editing.edited_models import CandidateQuery
from editkit.editing.gradients import LowerBlocks, edit_gradients
from editkit.editing.target_loss import TargetLoss, log_probabilities, target_rows
from editkit.models import Completion
from editkit.models.encoding import chunks_by_tokens
from editkit.models.running import replacing
from editkit_plugins.learned.networks import EditNetwork, MatrixChanges
from editkit_plugins.learned.training.cached_blocks import CachedLowerBlocks
from editkit_plugins.learned.training.data import Source, TrainingEdit

_TOKENS_PER_PASS = 16384
_SCORES = {"ES": "rewrite", "PS": "paraphrase", "NS": "neighborhood"}
_RECORDS_PER_PASS = 32
_HELD_OUT_EDITS = 64
_HELD_OUT_LOCALITY = 4


@dataclasses.dataclass(frozen=True)
class Losses:
    """The two losses of a step, in nats.

    Attributes:
        edit: NLL per target token at the rephrased prompts, averaged over edits.
        locality: KL(unedited || edited) per token of the facts that must stay.
    """

    edit: Tensor
    locality: Tensor

    def total(self, edit_weight: float) -> Tensor:
        """The loss that training minimises."""
        return edit_weight * self.edit + self.locality


def losses(
    blocks: CachedLowerBlocks,
    network: EditNetwork,
    edits: Sequence[TrainingEdit],
    *,
    update_statistics: bool = False,
) -> Losses:
    """Make the edits and evaluate the edited models.

    Args:
        blocks: The unedited model, split at the lowest edited block.
        network: Proposes the changes. Gradients flow into it where they are enabled.
        edits: The edits, with the same number of locality facts each.
        update_statistics: Whether these edits enter the network's running statistics.
    """
    model = blocks.model
    groups = [[each.edit] for each in edits]
    gradients = edit_gradients(blocks, groups, network.paths)
    if update_statistics:
        network.update_statistics(gradients)
    changes = network.changes(gradients, groups)
    rephrased = [each.rephrased for each in edits]
    stay = [fact for each in edits for fact in each.locality]
    edit_of_fact = [*range(len(edits)), *(i for i, each in enumerate(edits) for _ in each.locality)]
    with model.frozen():
        states = _edited_states(blocks, changes, [*rephrased, *stay], edit_of_fact)
        log_p = log_probabilities(model, states)  # (N, V)
        target = TargetLoss.of([rephrased], device=log_p.device)
        n_rephrased = len(target.token)
        edit = -target.weighted(log_p[:n_rephrased]).sum()
        with torch.no_grad():
            unedited = [
                blocks.final_states(text)[len(fact.prompt) - 1 :]
                for fact, text in zip(stay, target_rows([stay]), strict=True)
            ]
            log_p_unedited = log_probabilities(model, torch.cat(unedited))
    difference = log_p_unedited - log_p[n_rephrased:]
    locality = (log_p_unedited.exp() * difference).sum(dim=-1).mean()
    return Losses(edit, locality)


def _edited_states(
    blocks: LowerBlocks,
    changes: Mapping[str, MatrixChanges],
    facts: Sequence[Completion],
    edit_of_fact: Sequence[int],
) -> Tensor:
    """States of the edited models that predict the targets' tokens, fact by fact, (N, H).

    Args:
        blocks: The unedited model, split at the lowest edited block.
        changes: The edits' changes by parameter.
        facts: Prompts with their targets.
        edit_of_fact: The edit that applies to each fact.
    """
    device = blocks.model.device
    texts = target_rows([facts])
    states: list[Tensor] = [torch.empty(0)] * len(facts)
    for batch in chunks_by_tokens([len(text) for text in texts], _TOKENS_PER_PASS):
        edit_of_row = torch.tensor([edit_of_fact[i] for i in batch], device=device)
        hooks = {
            name.removesuffix(".weight"): _adding(change, edit_of_row)
            for name, change in changes.items()
        }
        tail = blocks.tail([texts[i] for i in batch])
        with replacing(blocks.model, hooks):
            hidden = tail.run(tail.hidden)  # (B, T, H)
        for row, i in zip(hidden, batch, strict=True):
            states[i] = row[len(facts[i].prompt) - 1 : len(texts[i])]
    return torch.cat(states)


def _adding(change: MatrixChanges, edit_of_row: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    def run(inputs: Tensor, output: Tensor) -> Tensor:
        x = inputs.reshape(len(edit_of_row), -1, inputs.shape[-1])  # (B, T, in)
        term = change.output_change(x.float(), edit_of_row)
        return output + term.to(output.dtype).reshape(output.shape)

    return run


# ---------------------------------------------------------------- validation


def validate(blocks: CachedLowerBlocks, network: EditNetwork, source: Source) -> dict[str, float]:
    """Losses in nats on held-out edits, and scores as fractions on held-out records.

    If the source has records, ``S`` is the harmonic mean of ES, PS and NS.
    """
    with torch.no_grad():
        held_out = losses(blocks, network, source.held_out(_HELD_OUT_EDITS, _HELD_OUT_LOCALITY))
    result = {"edit": float(held_out.edit), "locality": float(held_out.locality)}
    if source.records:
        result.update(_scores(blocks, network, source.records))
    return result


def is_better(
    new: Mapping[str, float], old: Mapping[str, float] | None, edit_weight: float
) -> bool:
    """Whether a validation beats another: by S, or by the total loss if there is no S."""
    if old is None:
        return True
    if "S" in new:
        return new["S"] > old["S"]
    new_loss, old_loss = (edit_weight * each["edit"] + each["locality"] for each in (new, old))
    return new_loss < old_loss


def _scores(
    blocks: LowerBlocks, network: EditNetwork, records: Sequence[Record]
) -> dict[str, float]:
    per_record: dict[str, list[float]] = {name: [] for name in _SCORES}
    for start in range(0, len(records), _RECORDS_PER_PASS):
        batch = records[start : start + _RECORDS_PER_PASS]
        models = EditedModels(blocks.model, _deltas(blocks, network, batch))
        for name, kind in _SCORES.items():
            probes = [
                (edit, probe)
                for edit, record in enumerate(batch)
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
            per_record[name] += [sum(each) / len(each) for each in wins.values()]
    scores = {name: sum(column) / len(column) for name, column in per_record.items() if column}
    inverse = sum(1 / score for score in scores.values()) if all(scores.values()) else 0.0
    return {**scores, "S": len(scores) / inverse if inverse else 0.0}


def _deltas(
    blocks: LowerBlocks, network: EditNetwork, records: Sequence[Record]
) -> list[WeightDelta]:
    model = blocks.model
    asked = iter(model.requested([each for record in records for each in record.requests]))
    edits = [[next(asked).completion for _ in record.requests] for record in records]
    gradients = edit_gradients(blocks, edits, network.paths)
    with torch.no_grad():
        changes = network.changes(gradients, edits)
    return [
        WeightDelta(
            changes={name: change.low_rank(edit) for name, change in changes.items()},
            request=record.requests if record.also else record.request,
            editor="training",
            config={},
            model_fingerprint=model.fingerprint,
        )
        for edit, record in enumerate(records)
    ]
