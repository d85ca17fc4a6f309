"""What patches do to each other: interference, predicted as a number, and conflicts.

A linear module computes ``x W``, and a patch adds ``x A``. The matrix ``A A'`` (in, in) holds the
inputs x that the patch reacts to. For an edit of rank one, ``A = k v'``, it is ``k k'`` times a
number; k is the key of the edited subject. Patches A and B disturb each other if they react to the
same inputs. Over the parameters p that both change::

    overlap(A, B)^2 = sum_p <A_p A_p', B_p B_p'>
                      / sqrt( sum_p ||A_p A_p'||^2  sum_p ||B_p B_p'||^2 )

For two edits of rank one, this is the cosine of their keys, without its sign.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from editkit.data_types import EditRequest
from editkit.editing.change_products import InputFactor
from editkit.editing.changes import Change, moved
from editkit.editing.delta_effects import norm_of
from editkit.editing.deltas import check_fits
from editkit.editing.prompt_context import joined_contexts
from editkit.editing.row_terms import terms_of
from editkit.errors import DeltaError
from editkit.models.block_calls import first
from editkit.models.running import forward, recording
from editkit.models.weight_layout import as_stored, is_matrix_module
from editkit.patches.content import PatchContent

if TYPE_CHECKING:
    from editkit.models.language_model import LanguageModel

__all__ = [
    "LARGE_OVERLAP",
    "REFUSED_UNLESS_FORCED",
    "Conflict",
    "ConflictKind",
    "base_of",
    "conflicts",
    "interference",
    "overlap",
    "overlaps",
]

LARGE_OVERLAP = 0.5
"""Overlap that is worth a check of both patches together. On atlas, 15% of such pairs of ROME edits
lost half of the new object's probability, and 0.1% of the others (docs/patches.md)."""


def overlap(a: PatchContent, b: PatchContent) -> float:
    """How far two patches react to the same inputs, from 0 (never) to 1 (in equal proportions).

    Computed from the changes alone; their sizes do not count. Texts that an in-context edit puts
    before prompts are not changes of weights, so they overlap with nothing.
    """
    return overlaps([a, b])[0][1]


def overlaps(patches: Sequence[PatchContent]) -> list[list[float]]:
    """The :func:`overlap` of each patch with each other one.

    Returns:
        A symmetric table; its diagonal is 1, or 0 for a patch that changes no weight.
    """
    sizes = [_size(patch) for patch in patches]
    products = [[0.0] * len(patches) for _ in patches]
    for name in sorted({name for patch in patches for name in patch.delta.changes}):
        factors = {
            number: InputFactor.of(patch.delta.changes[name], sizes[number])
            for number, patch in enumerate(patches)
            if name in patch.delta.changes
        }
        for i, j in itertools.combinations_with_replacement(factors, 2):
            products[j][i] += factors[i].product(factors[j])
    table = [[0.0] * len(patches) for _ in patches]
    for i in range(len(patches)):
        for j in range(i + 1):
            own = math.sqrt(products[i][i]) * math.sqrt(products[j][j])
            table[i][j] = table[j][i] = min(1.0, math.sqrt(products[i][j] / own)) if own else 0.0
    return table


def _size(patch: PatchContent) -> float:
    """Norm of a patch's changes: divided by it, their fourth powers fit into a float."""
    return math.hypot(*map(norm_of, patch.delta.changes.values())) or 1.0


# ---------------------------------------------------------------- conflicts


ConflictKind = Literal[
    "same patch", "same fact", "contradiction", "order", "other model", "context"
]
"""Why patches should not be combined: the same edit twice; one fact written twice; one subject and
relation with two objects; an edit that needs another one before it; edits of two models; texts
before prompts that are chosen or separated differently."""

REFUSED_UNLESS_FORCED: frozenset[ConflictKind] = frozenset(
    {"same patch", "same fact", "contradiction"}
)
"""Conflicts between patches that can be combined, although the result is rarely wanted."""


@dataclasses.dataclass(frozen=True)
class Conflict:
    """Why two patches should not be combined, or why one cannot be.

    Attributes:
        kind: What is wrong.
        patches: The numbers of the patches, from 0; a single one if it needs a missing edit.
        details: What is wrong, without the patches' names: the facts, or the fingerprints.
    """

    kind: ConflictKind
    patches: tuple[int, ...]
    details: str

    def sentence(self, names: Sequence[str]) -> str:
        """The conflict in words.

        Args:
            names: The names of all patches, such as their files.
        """
        return f"{' and '.join(names[number] for number in self.patches)}: {self.details}."


def conflicts(patches: Sequence[PatchContent]) -> list[Conflict]:
    """What is wrong with applying patches together, in this order.

    Two requests are about the same fact if subject and relation are equal. Relations are equal if
    their identifiers are, or, where a request has none, their prompts; case and white space do not
    count. The same relation in other words is not recognised without identifiers.

    Args:
        patches: The patches, in the order in which they are applied.
    """
    digests = [patch.delta.digest() for patch in patches]
    bases = [base_of(patch) for patch in patches]
    facts = [_facts_by_subject(patch) for patch in patches]
    every: list[Conflict] = []
    for i, j in itertools.combinations(range(len(patches)), 2):
        if bases[i] != bases[j]:
            models = " and ".join(_model_of(patches[n], bases[n]) for n in (i, j))
            details = f"they were made for two models, {models}"
            every.append(Conflict("other model", (i, j), details))
        if digests[i] == digests[j]:
            every.append(Conflict("same patch", (i, j), "they are the same edit"))
        else:
            every += _between_facts(i, facts[i], j, facts[j])
        if details := _between_contexts(patches[i], patches[j]):
            every.append(Conflict("context", (i, j), details))
    return [*every, *_in_order(patches)]


def base_of(patch: PatchContent) -> str:
    """Fingerprint of the model that a patch was made on, without the edits that it is on top of."""
    return (*patch.delta.made_on, patch.delta.model_fingerprint)[0]


def _model_of(patch: PatchContent, base: str) -> str:
    named = f" ({patch.origin.model_and_revision!r})" if patch.origin is not None else ""
    return f"{base[:12]}{named}"


_Facts = Mapping[str, Sequence[EditRequest]]


def _facts_by_subject(patch: PatchContent) -> _Facts:
    facts: dict[str, list[EditRequest]] = {}
    for request in patch.requests:
        facts.setdefault(_plain(request.subject), []).append(request)
    return facts


def _between_facts(i: int, ours: _Facts, j: int, theirs: _Facts) -> Iterator[Conflict]:
    """Facts that both patches write; one conflict of each kind names the first of them."""
    same: list[str] = []
    opposed: list[str] = []
    for subject in ours.keys() & theirs.keys():
        for a, b in itertools.product(ours[subject], theirs[subject]):
            if not _same_relation(a, b):
                continue
            if _plain(a.target_new) == _plain(b.target_new):
                same.append(repr(a.statement))
            else:
                opposed.append(f"{a.sentence!r} is to be {a.target_new!r} and {b.target_new!r}")
    kinds: tuple[tuple[ConflictKind, list[str]], ...]
    kinds = (("same fact", same), ("contradiction", opposed))
    for kind, some in kinds:
        if some:
            more = f" (and {len(some) - 1} more)" if len(some) > 1 else ""
            both = "both write " if kind == "same fact" else ""
            yield Conflict(kind, (i, j), f"{both}{min(some)}{more}")


def _same_relation(a: EditRequest, b: EditRequest) -> bool:
    if a.relation_id is not None and b.relation_id is not None:
        return _plain(a.relation_id) == _plain(b.relation_id)
    return _plain(a.prompt) == _plain(b.prompt)


def _plain(text: str) -> str:
    """A text without what does not matter: case, white space, how accents are encoded."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _between_contexts(a: PatchContent, b: PatchContent) -> str:
    """Why the texts of two in-context edits cannot be joined; empty if they can."""
    contexts = [each.delta.context for each in (a, b) if each.delta.context is not None]
    try:
        joined_contexts(contexts)
    except DeltaError as error:
        return error.message.rstrip(".")
    return ""


def _in_order(patches: Sequence[PatchContent]) -> Iterator[Conflict]:
    """Edits that were made on top of others, which do not come before them in that order."""
    weights = [patch.delta.without_context().digest() for patch in patches]
    changed = [number for number, patch in enumerate(patches) if patch.delta.changes]
    for number in changed:
        below = patches[number].delta.made_on[1:]
        before = [other for other in changed if other < number][: len(below)]
        if list(below) == [weights[other] for other in before]:
            continue
        absent = [edit for edit in below if edit not in weights]
        if absent:
            yield Conflict(
                "order",
                (number,),
                f"it was made on top of the edit {absent[0][:12]}, which is not here",
            )
            continue
        others = tuple(dict.fromkeys(weights.index(edit) for edit in below))
        yield Conflict(
            "order",
            (number, *others),
            "the first was made on top of the others, which must come first, in this order",
        )


# ---------------------------------------------------------------- with the model


@torch.no_grad()
def interference(model: LanguageModel, a: PatchContent, b: PatchContent) -> float:
    """How much ``b`` disturbs ``a`` where ``a`` was made, relative to what ``a`` itself does.

    The unedited model reads the prompts that ``a`` edits. Let x be the inputs of the changed
    modules over their tokens::

        sqrt( sum_{p, x} ||x B_p||^2 / sum_{p, x} ||x A_p||^2 )

    0: ``b`` changes nothing there; 1: as much as ``a``. It is not symmetric. Texts that an
    in-context edit puts before prompts do not count.

    Args:
        model: The unedited model of both patches.
        a: The patch that may suffer.
        b: The other one.

    Raises:
        DeltaError: A patch does not fit the model.

    Returns:
        The ratio, from 0; infinite if only ``b`` changes something there, NaN if neither does.
    """
    for patch in (a, b):
        on_top = len(patch.delta.made_on) > 1 and base_of(patch) == model.base_fingerprint
        check_fits(model, patch.delta, force=on_top)
    paths = sorted({n.rpartition(".")[0] for patch in (a, b) for n in patch.delta.changes})
    own = others = 0.0
    for request in a.requests:
        [prompt] = model.read([request.sentence], chat=request.chat)
        with recording(model, paths) as seen:
            model.head(forward(model, torch.tensor([prompt.ids], device=model.device)))
        inputs = {path: activation.inputs for path, activation in seen.items()}
        own += _moved(model, a, inputs)
        others += _moved(model, b, inputs)
    if own == 0:
        return math.nan if others == 0 else math.inf
    return math.sqrt(others / own)


def _moved(model: LanguageModel, patch: PatchContent, inputs: Mapping[str, Tensor]) -> float:
    """Squared norm of what a patch adds to the outputs of modules with these inputs."""
    square = 0.0
    for path in {name.rpartition(".")[0] for name in patch.delta.changes} & inputs.keys():
        changes = {
            name: change
            for name in ("weight", "bias")
            if (change := patch.delta.changes.get(f"{path}.{name}")) is not None
        }
        square += float(_added(model.module(path), changes, inputs[path]).double().square().sum())
    return square


def _added(module: nn.Module, changes: Mapping[str, Change], x: Tensor) -> Tensor:
    """What changes of a module's parameters add to its output."""
    if is_matrix_module(module):
        x = x.float().reshape(1, -1, x.shape[-1])  # (1, T, in)
        total = x.new_zeros(1, 1, 1)
        for change in changes.values():
            for term in terms_of([change], (), x.device):
                total = term(x, total)  # (1, T, out)
        return total
    edited = {
        name: module.get_parameter(name) + as_stored(module, moved(change, x.device).dense())
        for name, change in changes.items()
    }
    before, after = (functional_call(module, weights, (x,)) for weights in ({}, edited))
    return first(after) - first(before)
