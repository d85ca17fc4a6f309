"""Many edited models behind one forward pass: each row of a batch sees its own delta.

``y_b = x_b W + x_b dW_b``. Low-rank and row changes cost two thin products, dense ones a product
per edited model. The model's own weights are never touched.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from editkit.editing.deltas import LowRank, WeightDelta, applied, check_all_fit
from editkit.editing.generation import continued, draws, text_of
from editkit.editing.queries import CandidateQuery, CandidateScore, GenerationQuery, TextQuery
from editkit.editing.row_terms import adding, is_batchable, low_rank_term, single_term
from editkit.models.encoding import Completion, chunks_by_tokens, padded
from editkit.models.language_model import LanguageModel
from editkit.models.running import forward, forward_after, replacing, run_prefix

__all__ = ["CandidateQuery", "CandidateScore", "EditedModels", "GenerationQuery", "TextQuery"]

_LOGITS_AT_ONCE = 1024  # positions; of GPT-2's vocabulary, some 200 MB


_Query = TypeVar("_Query", CandidateQuery, TextQuery, GenerationQuery)
_Answer = TypeVar("_Answer")


class EditedModels:
    """One model under many deltas.

    Candidates that were scored and texts that were generated are remembered, so that metrics that
    ask the same cause the work once.

    Args:
        model: The unedited model, or one with edits applied that stay applied.
        deltas: One per edited model; a delta without changes is the model itself.
        token_budget: Most tokens of one forward pass, padding included.
        seed: Of generated texts.

    Raises:
        DeltaError: A delta does not fit the model, at the beginning or when something is asked.
    """

    def __init__(
        self,
        model: LanguageModel,
        deltas: Sequence[WeightDelta],
        *,
        token_budget: int = 16384,
        seed: int = 0,
    ) -> None:
        check_all_fit(model, deltas)
        self.model = model
        self.deltas = tuple(deltas)
        self.token_budget = token_budget
        self.seed = seed
        self._batchable = all(is_batchable(model, delta) for delta in deltas)
        self._scored: dict[CandidateQuery, list[CandidateScore]] = {}
        self._generated: dict[tuple[GenerationQuery, int, int], str] = {}
        self._state = model.weights.state()

    def __len__(self) -> int:
        return len(self.deltas)

    @property
    def batchable(self) -> bool:
        """Whether the rows of one batch can each see their own delta."""
        return self._batchable

    def _refresh(self) -> None:
        """Forget answers of other weights, and refuse deltas that do not fit those of now."""
        state = self.model.weights.state()
        if state != self._state:
            check_all_fit(self.model, self.deltas)
            self._scored.clear()
            self._generated.clear()
            self._state = self.model.weights.state()

    def unedited(self) -> EditedModels:
        """As many models, none of them edited."""
        plain = [dataclasses.replace(delta, changes={}) for delta in self.deltas]
        return EditedModels(self.model, plain, token_budget=self.token_budget, seed=self.seed)

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
                hooks[path] = adding(terms, len(edits))
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
            terms.append(low_rank_term(low_rank, edits, device))
        for edit, change in others.items():
            rows = torch.tensor([b for b, e in enumerate(edits) if e == edit], device=device)
            terms.append(single_term(change, rows, device))
        return terms

    # ------------------------------------------------------------ candidates

    def candidate_nll(self, queries: Sequence[CandidateQuery]) -> list[list[float]]:
        """Mean negative log likelihood per token of each candidate, in nats.

        Args:
            queries: In any order.

        Returns:
            One list per query, one number per candidate.
        """
        return [[score.nll for score in row] for row in self.candidate_scores(queries)]

    def candidate_scores(self, queries: Sequence[CandidateQuery]) -> list[list[CandidateScore]]:
        """How likely each candidate is, and how much of it the model would write by itself.

        A prompt is run once, however many candidates compete for it, and logits are formed only
        where they are read. The model answers in evaluation mode, whatever mode it is in. Of a
        text that is longer than the model's context, the prompt's beginning is left out.

        Args:
            queries: In any order.

        Returns:
            One list per query, one score per candidate.
        """
        self._refresh()
        new = [query for query in dict.fromkeys(queries) if query not in self._scored]
        ask = EditedModels._score_candidates
        answers = ask(self, new) if self._batchable else self._one_by_one(ask, new)
        self._scored.update(zip(new, answers, strict=True))
        return [list(self._scored[query]) for query in queries]

    def _score_candidates(self, queries: Sequence[CandidateQuery]) -> list[list[CandidateScore]]:
        flat = [
            (number, place)
            for number, q in enumerate(queries)
            for place in range(len(q.candidates))
        ]
        completions = self.model.complete(
            [queries[number].prompt for number, _ in flat],
            [queries[number].candidates[place] for number, place in flat],
            separators=[queries[number].separator for number, _ in flat],
            chat=[queries[number].chat for number, _ in flat],
            crop=True,
        )
        # Candidates nearly always agree on where the prompt's tokens end; where they do not, the
        # query splits into several prompts.
        prompts: dict[tuple[int, tuple[int, ...]], list[tuple[int, Completion]]] = {}
        for (number, place), completion in zip(flat, completions, strict=True):
            prompts.setdefault((number, completion.prompt), []).append((place, completion))
        answers = [[CandidateScore(0.0, 0.0)] * len(query.candidates) for query in queries]
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
    ) -> list[list[CandidateScore]]:
        """Scores of each prompt's targets; prompt ``i`` is run under edit ``edits[i]``."""
        device = self.model.device
        ids = padded(prompts, device)  # (B, T)
        lengths = torch.tensor([len(p) for p in prompts], device=device)  # (B,)
        flat = [(row, target) for row, group in enumerate(targets) for target in group]
        rows = torch.tensor([row for row, _ in flat], device=device)  # (N,)
        # Continue only the targets that have more tokens, each after its prompt's own keys.
        longer = [n for n, (_, target) in enumerate(flat) if len(target) > 1]
        pick = torch.tensor(longer, dtype=torch.long, device=device)  # (M,)
        source = rows[pick]
        with self.rows(edits):
            if longer:
                prefix, hidden = run_prefix(self.model, ids, lengths, rows=source)
            else:
                prefix, hidden = None, forward(self.model, ids)
        last = hidden[torch.arange(len(prompts), device=device), lengths - 1]  # (B, H)
        log_p = torch.log_softmax(self.model.head(last), dim=-1)  # (B, V)
        first_tokens = torch.tensor([target[0] for _, target in flat], device=device)
        total = -log_p[rows, first_tokens]  # (N,)
        hits = (log_p.argmax(dim=-1)[rows] == first_tokens).float()  # (N,)
        if prefix is not None:
            inputs = padded([flat[n][1][:-1] for n in longer], device)  # (M, S)
            wanted = padded([flat[n][1][1:] for n in longer], device)  # (M, S)
            counts = torch.tensor([len(flat[n][1]) - 1 for n in longer], device=device)  # (M,)
            with self.rows([edits[row] for row in source.tolist()]):
                states = forward_after(self.model, prefix, inputs, lengths[source])
            real = torch.arange(inputs.shape[1], device=device)[None] < counts[:, None]  # (M, S)
            log_p = torch.log_softmax(self.model.head(states[real]), dim=-1)  # (tokens, V)
            nll = -log_p.gather(1, wanted[real][:, None])[:, 0]  # (tokens,)
            owner = pick[:, None].expand_as(real)[real]
            total = total.index_add(0, owner, nll)
            hits = hits.index_add(0, owner, (log_p.argmax(dim=-1) == wanted[real]).float())
        sizes = torch.tensor([len(target) for _, target in flat], device=device)
        means, shares = (total / sizes).tolist(), (hits / sizes).tolist()
        scores = map(CandidateScore, means, shares)
        return [[next(scores) for _ in group] for group in targets]

    # ------------------------------------------------------------ texts

    def text_nll(
        self, queries: Sequence[TextQuery], *, max_tokens: int | None = None
    ) -> list[list[float]]:
        """Negative log likelihood of the tokens of whole texts, in nats.

        Args:
            queries: In any order.
            max_tokens: Only so many of a text's first tokens are read.

        Returns:
            One list per query: a number for every token but the first.

        Raises:
            ModelError: What is read of a text is longer than the model's context.
        """
        self._refresh()
        texts = [query.text for query in queries]
        cut = [encoding.first(max_tokens) for encoding in self.model.encode(texts)]
        for encoding in cut:
            self.model.check_length(encoding)
        tokens = {query: e.ids for query, e in zip(queries, cut, strict=True)}

        def ask(models: EditedModels, some: Sequence[TextQuery]) -> list[list[float]]:
            return models._score_texts([(query.edit, tokens[query]) for query in some])

        return ask(self, queries) if self._batchable else self._one_by_one(ask, queries)

    def _score_texts(self, texts: Sequence[tuple[int, tuple[int, ...]]]) -> list[list[float]]:
        answers: list[list[float]] = [[] for _ in texts]
        device = self.model.device
        for batch in chunks_by_tokens([len(ids) for _, ids in texts], self.token_budget):
            rows = [texts[number][1] for number in batch]
            ids = padded(rows, device)  # (B, T)
            lengths = torch.tensor([len(row) for row in rows], device=device)  # (B,)
            with self.model.frozen(), torch.no_grad():
                with self.rows([texts[number][0] for number in batch]):
                    states = forward(self.model, ids)[:, :-1]  # (B, T - 1, H)
                columns = torch.arange(states.shape[1], device=device)
                real = columns[None] < lengths[:, None] - 1  # (B, T - 1)
                nll = iter(self._token_nll(states[real], ids[:, 1:][real]))
            for number, row in zip(batch, rows, strict=True):
                answers[number] = [next(nll) for _ in row[1:]]
        return answers

    def _token_nll(self, states: Tensor, tokens: Tensor) -> list[float]:
        """NLL of the tokens (N,) that follow states (N, H); few logits are held at once."""
        nll: list[float] = []
        for start in range(0, len(tokens), _LOGITS_AT_ONCE):
            part = slice(start, start + _LOGITS_AT_ONCE)
            log_p = torch.log_softmax(self.model.head(states[part]), dim=-1)  # (n, V)
            nll += (-log_p.gather(1, tokens[part, None])[:, 0]).tolist()
        return nll

    def generate(
        self, queries: Sequence[GenerationQuery], *, tokens: int = 100, top_k: int = 5
    ) -> list[str]:
        """Texts that the edited models write, many at once, each row under its own edit.

        Draws come from the seed, a query's name and its prompt alone. A text is the same beside
        any others, up to float rounding: where two tokens are told apart by less than that, about
        once in a hundred thousand draws, the other one may be drawn.

        Args:
            queries: In any order.
            tokens: Length of each text, its prompt included (in a chat all of the template, too);
                at most the model's context. An end-of-text token does not end a plain text;
                special tokens are left out (:func:`editkit.editing.generation.text_of`).
            top_k: Only the k most likely tokens are drawn.

        Returns:
            One text per query, beginning with its prompt; in a chat the prompt, a line break, and
            the answer up to the special token that ends its turn.

        Raises:
            ModelError: A prompt is longer than the model's context.
        """
        self._refresh()
        tokens = min(tokens, self.model.context_length)

        def ask(models: EditedModels, some: Sequence[GenerationQuery]) -> list[str]:
            return models._generate(some, tokens, top_k)

        keys = {query: (query, tokens, top_k) for query in queries}
        new = [query for query, key in keys.items() if key not in self._generated]
        texts = ask(self, new) if self._batchable else self._one_by_one(ask, new)
        self._generated.update(zip([keys[query] for query in new], texts, strict=True))
        return [self._generated[keys[query]] for query in queries]

    def _generate(self, queries: Sequence[GenerationQuery], tokens: int, top_k: int) -> list[str]:
        encodings = self.model.read(
            [query.prompt for query in queries], chat=[query.chat for query in queries]
        )
        for encoding in encodings:
            self.model.check_length(encoding)
        # Prompts of similar length meet: a batch takes the steps that its shortest one needs.
        order = sorted(range(len(queries)), key=lambda number: len(encodings[number]))
        most = max(1, self.token_budget // tokens)
        size = -(-len(order) // -(-len(order) // most)) if order else most  # batches of one size
        texts = [""] * len(queries)
        for batch in (order[i : i + size] for i in range(0, len(order), size)):
            names = [(self.seed, queries[number].name, queries[number].prompt) for number in batch]
            prompts = [encodings[number].ids for number in batch]
            edits = [queries[number].edit for number in batch]
            with self.model.frozen(), torch.no_grad(), self.rows(edits):
                found = continued(self.model, prompts, draws(names, tokens), top_k=top_k)
            for number, ids in zip(batch, found, strict=True):
                if queries[number].chat:
                    answer = ids[len(encodings[number]) :]
                    texts[number] = self._answered(queries[number].prompt, answer)
                else:
                    texts[number] = text_of(self.model.tokenizer, ids)
        return texts

    def _answered(self, prompt: str, ids: Sequence[int]) -> str:
        """What was said in a chat: the user's turn, and the answer up to the end of its turn."""
        special = self.model.special.ids
        end = next((i for i, token in enumerate(ids) if token in special), len(ids))
        answer = str(self.model.tokenizer.decode(ids[:end]))
        return f"{prompt}\n{answer}"

    def _one_by_one(
        self,
        ask: Callable[[EditedModels, Sequence[_Query]], list[_Answer]],
        queries: Sequence[_Query],
    ) -> list[_Answer]:
        """The same, by really changing the weights: for changes that no row can carry alone."""
        answers: dict[int, _Answer] = {}
        for edit, delta in enumerate(self.deltas):
            mine = [number for number, query in enumerate(queries) if query.edit == edit]
            if not mine:
                continue
            with applied(self.model, delta):
                found = ask(self.unedited(), [queries[number] for number in mine])
            answers.update(zip(mine, found, strict=True))
        return [answers[number] for number in range(len(queries))]
