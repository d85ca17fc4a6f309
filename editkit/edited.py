"""Many edited models behind one forward pass: each row of a batch sees its own delta.

``y_b = x_b W + x_b dW_b``. Low-rank and row changes cost two thin products, dense ones a product
per edited model. The model's own weights are never touched.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from editkit.deltas import Change, Dense, LowRank, Rows, WeightDelta, applied, check_fits
from editkit.layout import is_matrix_module
from editkit.models.encoding import Completion, chunks_by_tokens, padded
from editkit.models.language_model import LanguageModel
from editkit.models.running import forward, forward_after, replacing, run_prefix

__all__ = ["CandidateQuery", "EditedModels"]


@dataclasses.dataclass(frozen=True)
class CandidateQuery:
    """Asks one edited model how likely some candidates are after a prompt.

    Attributes:
        edit: Number of the edited model.
        prompt: Text up to the candidates.
        candidates: Continuations, without leading space.
    """

    edit: int
    prompt: str
    candidates: tuple[str, ...]


class EditedModels:
    """One model under many deltas.

    Args:
        model: The unedited model.
        deltas: One per edited model; a delta without changes is the model itself.
        token_budget: Most tokens of one forward pass, padding included.

    Raises:
        DeltaError: A delta does not fit the model.
    """

    def __init__(
        self, model: LanguageModel, deltas: Sequence[WeightDelta], *, token_budget: int = 16384
    ) -> None:
        for delta in deltas:
            check_fits(model, delta)
        self.model = model
        self.deltas = tuple(deltas)
        self.token_budget = token_budget
        self._batchable = all(_batchable(model, delta) for delta in deltas)

    def __len__(self) -> int:
        return len(self.deltas)

    @property
    def batchable(self) -> bool:
        """Whether the rows of one batch can each see their own delta."""
        return self._batchable

    def unedited(self) -> EditedModels:
        """As many models, none of them edited."""
        plain = [dataclasses.replace(delta, changes={}) for delta in self.deltas]
        return EditedModels(self.model, plain, token_budget=self.token_budget)

    @contextlib.contextmanager
    def rows(self, edits: Sequence[int]) -> Iterator[None]:
        """Inside, row ``b`` of a forward pass of the model sees delta ``edits[b]``."""
        hooks: dict[str, Callable[[Tensor, Tensor], Tensor]] = {}
        for path in self._modules():
            device = next(self.model.module(path).parameters()).device
            terms = [
                term
                for name in ("weight", "bias")
                for term in self._terms(f"{path}.{name}", edits, device)
            ]
            if terms:
                hooks[path] = _adding(terms, len(edits))
        with replacing(self.model, hooks):
            yield

    def _modules(self) -> list[str]:
        """Paths of all modules that some delta changes."""
        names = (name for delta in self.deltas for name in delta.changes)
        return list(dict.fromkeys(name.rpartition(".")[0] for name in names))

    def _terms(
        self, name: str, edits: Sequence[int], device: torch.device
    ) -> list[Callable[[Tensor, Tensor], Tensor]]:
        """Functions that add a parameter's changes to a module's output."""
        changes = {e: self.deltas[e].changes.get(name) for e in dict.fromkeys(edits)}
        low_rank = {e: c for e, c in changes.items() if isinstance(c, LowRank)}
        others = {e: c for e, c in changes.items() if c is not None and not isinstance(c, LowRank)}
        terms = []
        if low_rank:
            terms.append(_low_rank_term(low_rank, edits, device))
        for edit, change in others.items():
            rows = torch.tensor([b for b, e in enumerate(edits) if e == edit], device=device)
            terms.append(_single_term(change, rows, device))
        return terms

    def candidate_nll(self, queries: Sequence[CandidateQuery]) -> list[list[float]]:
        """Mean negative log likelihood per token of each candidate, in nats.

        A prompt is run once, however many candidates compete for it, and logits are formed only
        where they are read. The model answers in evaluation mode, whatever mode it is in. Of a
        text that is longer than the model's context, the prompt's beginning is left out.

        Args:
            queries: In any order.

        Returns:
            One list per query, one number per candidate.
        """
        if not self._batchable:
            return self._one_by_one(queries)
        flat = [
            (number, place)
            for number, q in enumerate(queries)
            for place in range(len(q.candidates))
        ]
        completions = self.model.complete(
            [queries[number].prompt for number, _ in flat],
            [queries[number].candidates[place] for number, place in flat],
            crop=True,
        )
        # Candidates nearly always agree on where the prompt's tokens end; where they do not, the
        # query splits into several prompts.
        prompts: dict[tuple[int, tuple[int, ...]], list[tuple[int, Completion]]] = {}
        for (number, place), completion in zip(flat, completions, strict=True):
            prompts.setdefault((number, completion.prompt), []).append((place, completion))
        answers = [[0.0] * len(query.candidates) for query in queries]
        # Prompts whose candidates are all of one token need no second pass: kept apart.
        short: list[tuple[int, tuple[int, ...]]] = []
        long: list[tuple[int, tuple[int, ...]]] = []
        for key, group in prompts.items():
            (short if all(len(c.target) == 1 for _, c in group) else long).append(key)
        for keys in (short, long):
            for batch in chunks_by_tokens([len(key[1]) for key in keys], self.token_budget):
                chosen = [keys[i] for i in batch]
                targets = [[c.target for _, c in prompts[key]] for key in chosen]
                edits = [queries[number].edit for number, _ in chosen]
                with self.model.frozen(), torch.no_grad():
                    scores = self._score([ids for _, ids in chosen], targets, edits)
                for key, row in zip(chosen, scores, strict=True):
                    for (place, _), value in zip(prompts[key], row, strict=True):
                        answers[key[0]][place] = value
        return answers

    def _score(
        self,
        prompts: Sequence[tuple[int, ...]],
        targets: Sequence[Sequence[tuple[int, ...]]],
        edits: Sequence[int],
    ) -> list[list[float]]:
        """Mean NLL of each prompt's targets; prompt ``i`` is run under edit ``edits[i]``."""
        device = self.model.device
        ids = padded(prompts, device)  # (B, T)
        lengths = torch.tensor([len(p) for p in prompts], device=device)  # (B,)
        flat = [(row, target) for row, group in enumerate(targets) for target in group]
        rows = torch.tensor([row for row, _ in flat], device=device)  # (N,)
        longest = max(len(target) for _, target in flat)
        with self.rows(edits):
            if longest == 1:
                prefix, hidden = None, forward(self.model, ids)
            else:
                prefix, hidden = run_prefix(self.model, ids, lengths)
        last = hidden[torch.arange(len(prompts), device=device), lengths - 1]  # (B, H)
        log_p = torch.log_softmax(self.model.head(last), dim=-1)  # (B, V)
        first_tokens = torch.tensor([target[0] for _, target in flat], device=device)
        total = -log_p[rows, first_tokens]  # (N,)
        longer = [n for n, (_, target) in enumerate(flat) if len(target) > 1]
        if prefix is not None and longer:
            # Continue only the targets that have more tokens, each after its prompt's own keys.
            pick = torch.tensor(longer, device=device)  # (M,)
            inputs = padded([flat[n][1][:-1] for n in longer], device)  # (M, S)
            wanted = padded([flat[n][1][1:] for n in longer], device)  # (M, S)
            counts = torch.tensor([len(flat[n][1]) - 1 for n in longer], device=device)  # (M,)
            source = rows[pick]
            with self.rows([edits[int(row)] for row in source]):
                states = forward_after(self.model, prefix.select(source), inputs, lengths[source])
            real = torch.arange(inputs.shape[1], device=device)[None] < counts[:, None]  # (M, S)
            log_p = torch.log_softmax(self.model.head(states[real]), dim=-1)  # (tokens, V)
            nll = -log_p.gather(1, wanted[real][:, None])[:, 0]  # (tokens,)
            owner = pick[:, None].expand_as(real)[real]
            total = total.index_add(0, owner, nll)
        sizes = torch.tensor([len(target) for _, target in flat], device=device)
        means = iter((total / sizes).tolist())
        return [[next(means) for _ in group] for group in targets]

    def _one_by_one(self, queries: Sequence[CandidateQuery]) -> list[list[float]]:
        """The same, by really changing the weights: for changes that no row can carry alone."""
        answers: list[list[float]] = [[] for _ in queries]
        for edit, delta in enumerate(self.deltas):
            mine = [number for number, query in enumerate(queries) if query.edit == edit]
            with applied(self.model, delta):
                plain = self.unedited()
                for number, row in zip(
                    mine, plain.candidate_nll([queries[n] for n in mine]), strict=True
                ):
                    answers[number] = row
        return answers


def _batchable(model: LanguageModel, delta: WeightDelta) -> bool:
    """Whether all its changes are to weights and biases of linear modules that nothing shares."""
    head = model.hf.get_output_embeddings()
    for name in delta.changes:
        path, _, field = name.rpartition(".")
        module = model.module(path)
        if field not in ("weight", "bias") or not is_matrix_module(module) or module is head:
            return False
    return True


def _adding(
    terms: Sequence[Callable[[Tensor, Tensor], Tensor]], n_rows: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """Adds all terms; some models call their MLP on rows and tokens in one dimension."""

    def add(inputs: Tensor, output: Tensor) -> Tensor:
        x = inputs.reshape(n_rows, -1, inputs.shape[-1])  # (B, T, in)
        y = output.reshape(n_rows, -1, output.shape[-1])  # (B, T, out)
        for term in terms:
            y = term(x, y)
        return y.reshape(output.shape)

    return add


def _low_rank_term(
    changes: dict[int, LowRank], edits: Sequence[int], device: torch.device
) -> Callable[[Tensor, Tensor], Tensor]:
    """Adds ``x_b L_b R_b``, ranks padded with zeros; rows without a change get zeros."""
    rank = max(change.left.shape[1] for change in changes.values())
    sample = next(iter(changes.values()))
    n, d, h = len(changes), sample.left.shape[0], sample.right.shape[1]
    left = torch.zeros(n + 1, d, rank, device=device)  # the last one is zero
    right = torch.zeros(n + 1, rank, h, device=device)
    for place, change in enumerate(changes.values()):
        left[place, :, : change.left.shape[1]] = change.left
        right[place, : change.right.shape[0]] = change.right
    places = {edit: place for place, edit in enumerate(changes)}
    index = torch.tensor([places.get(edit, n) for edit in edits], device=device)  # (B,)

    def add(x: Tensor, y: Tensor) -> Tensor:
        thin = torch.bmm(x, left.to(x.dtype)[index])  # (B, T, r)
        return y + torch.bmm(thin, right.to(x.dtype)[index])  # (B, T, out)

    return add


def _single_term(
    change: Change, rows: Tensor, device: torch.device
) -> Callable[[Tensor, Tensor], Tensor]:
    """Adds one edit's dense or row change, or its bias, to the rows that belong to it."""

    def add(x: Tensor, y: Tensor) -> Tensor:
        if isinstance(change, Rows):
            picked = x[rows][..., change.indices.to(device)]  # (rows, T, n)
            update = picked @ change.values.to(device, x.dtype)
        elif isinstance(change, Dense) and change.values.ndim == 1:
            update = change.values.to(device, x.dtype).expand(len(rows), x.shape[1], -1)
        else:
            update = x[rows] @ change.dense().to(device, x.dtype)  # (rows, T, out)
        return y.index_add(0, rows, update)

    return add
