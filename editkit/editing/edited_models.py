"""Many edited models behind one forward pass: each row of a batch sees its own delta.

For row b of a batch, let x_b be the input to a linear module, W the module's weight, and dW_b the
change to W in the row's delta. Then

    y_b = x_b W + x_b dW_b

Terms are keyed by delta: rows that share a delta share its memory (:mod:`.row_terms`), and edits
that share a delta share its answers. The model's weights are never modified. If a delta puts texts
before prompts, so do the queries: their tokens are read after the texts, and are all that counts.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from editkit.editing.deltas import Change, WeightDelta, applied, check_all_fit, compacted
from editkit.editing.edited_prompts import EditedPrompts, ReadPrompt, ScoredText
from editkit.editing.generation import continued, draws, text_after, text_of
from editkit.editing.queries import CandidateQuery, CandidateScore, GenerationQuery, TextQuery
from editkit.editing.row_terms import adding, terms_of
from editkit.editing.unedited_answers import UneditedAnswers
from editkit.errors import DeltaError
from editkit.mistakes import expect, expect_list
from editkit.models.encoding import Completion, Encoding, chunks_by_tokens, padded
from editkit.models.language_model import LanguageModel
from editkit.models.running import forward, replacing
from editkit.models.trees import forward_trees, longest_tree, trees_of
from editkit.models.weight_layout import is_matrix_module
from editkit.reprs import counted, listed, summary

__all__ = ["CandidateQuery", "CandidateScore", "EditedModels", "GenerationQuery", "TextQuery"]

_LOGITS_AT_ONCE = 1024  # positions; for GPT-2's vocabulary about 200 MB
_log = logging.getLogger(__name__)


class _AsksOneModel(Protocol):
    @property
    def edit(self) -> int:
        """Number of the edited model that answers."""


_Query = TypeVar("_Query", bound=_AsksOneModel)
_Answer = TypeVar("_Answer")


# ---------------------------------------------------------------- edited models


class EditedModels:
    """One model under many deltas.

    Candidate scores and generated texts are cached, so that metrics with the same queries share the
    work. All weights are read once, here; later changes are noticed, except writes to ``.data``.

    Args:
        model: The unedited model, or a model with applied edits, which stay applied.
        deltas: One per edited model; a delta without changes means the model itself. For a joint
            edit, repeat the delta: its memory, its answers and its forward passes are shared.
        token_budget: Maximum number of tokens in one forward pass, including padding.
        seed: Seed of generated texts.
        known: Answers of the unedited model, for several collections of the same run.
        weights_known: Whether the caller reads the weights itself, as a benchmark does after every
            batch. They are not read here then.

    Raises:
        DeltaError: A delta does not fit the model, now or when a query is answered.
    """

    def __init__(
        self,
        model: LanguageModel,
        deltas: Sequence[WeightDelta],
        *,
        token_budget: int = 16384,
        seed: int = 0,
        known: UneditedAnswers | None = None,
        weights_known: bool = False,
    ) -> None:
        call = "EditedModels(model, deltas)"
        expect(model, "LanguageModel", "model", call)
        expect_list(deltas, "WeightDelta", "deltas", call)
        self.model = model
        self.deltas = tuple(deltas)
        self.token_budget = token_budget
        self.seed = seed
        self._known = UneditedAnswers() if known is None else known
        # Copies of a delta with other notes share its changes and its context.
        keys = [
            (id(delta.changes), id(delta.context)) if _changes_something(delta) else None
            for delta in deltas
        ]
        first = {key: edit for edit, key in reversed(list(enumerate(keys)))}
        self._first = [first[key] for key in keys]  # number of the first edit with the same delta
        self._distinct = {edit: self.deltas[edit] for edit in dict.fromkeys(self._first)}
        check_all_fit(model, list(self._distinct.values()), look=not weights_known)
        self._prompts = EditedPrompts(model, [delta.context for delta in deltas])
        self._batchable = all(_is_batchable(model, each) for each in self._distinct.values())
        self._scored: dict[CandidateQuery, list[CandidateScore]] = {}
        self._generated: dict[tuple[GenerationQuery, int, int], str] = {}
        self._state = model.weights.state()

    def __len__(self) -> int:
        return len(self.deltas)

    @summary
    def __repr__(self) -> str:
        editors = listed(list(dict.fromkeys(delta.editor for delta in self.deltas)))
        by = f" by {editors}" if editors else ""
        return f"EditedModels: {self.model.name} under {counted(len(self.deltas), 'edit')}{by}"

    def _refresh(self) -> None:
        """Clear the cache if the weights changed, and raise if a delta no longer fits."""
        state = self.model.weights.state()
        if state != self._state:
            check_all_fit(self.model, list(self._distinct.values()), look=False)
            self._scored.clear()
            self._generated.clear()
            self._state = self.model.weights.state()

    def unedited(self) -> EditedModels:
        """The same number of models, none of them edited; the same object at every call."""
        return self._unedited

    @functools.cached_property
    def _unedited(self) -> EditedModels:
        return self._replaced(lambda delta: dataclasses.replace(delta, changes={}, context=None))

    def _replaced(self, change: Callable[[WeightDelta], WeightDelta]) -> EditedModels:
        """Other edited models; edits that share a delta still do."""
        others = {edit: change(delta) for edit, delta in self._distinct.items()}
        deltas = [others[edit] for edit in self._first]
        return EditedModels(
            self.model,
            deltas,
            token_budget=self.token_budget,
            seed=self.seed,
            known=self._known,
            weights_known=True,
        )

    @contextlib.contextmanager
    def rows(self, edits: Sequence[int], *, in_context: bool = False) -> Iterator[None]:
        """Inside, row ``b`` of a forward pass of the model sees delta ``edits[b]``.

        Args:
            edits: Number of the edited model for each row.
            in_context: Whether the rows begin with what their edits put before prompts
                (:meth:`in_context`).

        Raises:
            DeltaError: An edit puts texts before prompts, and the rows do not have them.
        """
        for edit in edits if not in_context else ():
            self.check_context(edit)
        hooks: dict[str, Callable[[Tensor, Tensor], Tensor]] = {}
        for path in self._modules():
            device = next(self.model.module(path).parameters()).device
            terms = [
                term
                for name in ("weight", "bias")
                for term in terms_of(
                    [self._changes[self._first[e]].get(f"{path}.{name}") for e in edits],
                    self._shared,
                    device,
                )
            ]
            if terms:
                hooks[path] = adding(terms, len(edits))
        with replacing(self.model, hooks):
            yield

    @functools.cached_property
    def _changes(self) -> dict[int, Mapping[str, Change]]:
        """The changes of each distinct delta, as they are computed."""
        return {edit: compacted(delta).changes for edit, delta in self._distinct.items()}

    @functools.cached_property
    def _shared(self) -> set[int]:
        """Identities of the changes that several edits have in common."""
        counts = Counter(self._first)
        joint = (self._changes[edit] for edit, n_edits in counts.items() if n_edits > 1)
        return {id(change) for changes in joint for change in changes.values()}

    def _modules(self) -> list[str]:
        """Paths of all modules changed by any delta."""
        names = (name for delta in self._distinct.values() for name in delta.changes)
        return list(dict.fromkeys(name.rpartition(".")[0] for name in names))

    def merged(self, queries: Sequence[_Query]) -> list[_Query]:
        """The queries, addressed to the first of all edits that share a delta.

        Equal ones need a single answer.

        Args:
            queries: In any order.
        """
        return [
            query if self._first[query.edit] == query.edit else self._addressed(query)
            for query in queries
        ]

    def _addressed(self, query: _Query) -> _Query:
        same = copy.copy(query)
        object.__setattr__(same, "edit", self._first[query.edit])
        return same

    # ------------------------------------------------------------ contexts of prompts

    def in_context(self, edit: int, prompt: str) -> str:
        """A prompt, or another text, after the texts that an edit puts before it.

        All queries for texts add them; this is for metrics that encode prompts themselves.

        Args:
            edit: Number of the edited model.
            prompt: The prompt.

        Raises:
            RequestError: The texts contain a special token.
        """
        return self._prompts.read_as(edit, prompt)

    def completions(self, query: CandidateQuery) -> list[Completion]:
        """A prompt with each candidate as tokens, as the edited model reads them.

        If a text is longer than the model's context, the start of the prompt is truncated.

        Raises:
            DeltaError: It is longer because of the texts that the edit puts before it.
        """
        return self._prompts.completions([(query, i) for i in range(len(query.candidates))])

    def prompt(self, query: GenerationQuery) -> ReadPrompt:
        """A prompt to continue as tokens, as the edited model reads it.

        Raises:
            DeltaError: It is longer than the model's context because of the texts that the edit
                puts before it.
            ModelError: It is longer than the model's context.
        """
        return self._prompts.generation(query)

    def check_context(self, edit: int) -> None:
        """Refuse an edit that puts texts before prompts, where only token ids are known.

        Raises:
            DeltaError: It does so.
        """
        if self.deltas[edit].context is not None:
            raise DeltaError(
                f"edit {edit} puts texts before prompts, which cannot be added to token ids.",
                hint="Encode models.in_context(edit, prompt) instead of the prompt, and pass "
                "in_context=True.",
            )

    def check_length(self, edit: int, encoding: Encoding, prompt: str) -> None:
        """Refuse a text that is too long with what its edit puts before it.

        Args:
            edit: Number of the edited model.
            encoding: All that the model reads.
            prompt: The prompt, or another text, without what the edit puts before it.

        Raises:
            DeltaError: It is longer than the model's context because of the edit.
            ModelError: It is longer than the model's context.
        """
        self._prompts.check_length(edit, encoding, prompt)

    def answers(
        self,
        ask: Callable[[EditedModels, Sequence[_Query]], list[_Answer]],
        queries: Sequence[_Query],
    ) -> list[_Answer]:
        """Answer queries in shared batches if possible, else one edited model at a time.

        Args:
            ask: Answers queries to edited models that can share a batch.
            queries: In any order.

        Returns:
            One answer per query.
        """
        if self._batchable:
            return ask(self, queries)
        answers: dict[int, _Answer] = {}
        for edit, delta in self._distinct.items():
            mine = [n for n, query in enumerate(queries) if self._first[query.edit] == edit]
            if mine:
                with applied(self.model, delta.without_context()):  # changes the weights themselves
                    others = self._replaced(lambda each: dataclasses.replace(each, changes={}))
                    own = ask(others, [queries[number] for number in mine])
                answers.update(zip(mine, own, strict=True))
        return [answers[number] for number in range(len(queries))]

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
        """How likely each candidate is, and how much of it greedy decoding would produce.

        A prompt is run once for all of its candidates, and logits are computed only at the
        positions that are read. The model runs in evaluation mode, whatever its current mode. If a
        text is longer than the model's context, the start of the prompt is truncated.

        Args:
            queries: In any order.

        Returns:
            One list per query, one score per candidate.

        Raises:
            DeltaError: A text is longer than the model's context because of the texts that its edit
                puts before it.
        """
        expect_list(queries, "CandidateQuery", "queries", "candidate_scores(queries)")
        self._refresh()
        queries = self.merged(queries)
        new = [query for query in dict.fromkeys(queries) if query not in self._scored]
        if new:
            self._scored.update(zip(new, self._new_scores(new), strict=True))
        return [list(self._scored[query]) for query in queries]

    def _new_scores(self, queries: Sequence[CandidateQuery]) -> list[list[CandidateScore]]:
        if any(_changes_something(delta) for delta in self._distinct.values()):
            return self.answers(EditedModels._score_candidates, queries)
        state = self._state, self.model.attention_implementation, self.token_budget
        return self._known.of(state, queries, self._score_candidates)

    def _score_candidates(self, queries: Sequence[CandidateQuery]) -> list[list[CandidateScore]]:
        asked = [(query, place) for query in queries for place in range(len(query.candidates))]
        completions = iter(self._prompts.completions(asked))
        # Token i of a candidate is predicted after the prompt and the candidate's first i tokens.
        steps = [
            [
                [((q.edit, each.prompt + each.target[:i]), t) for i, t in enumerate(each.target)]
                for each in itertools.islice(completions, len(q.candidates))
            ]
            for q in queries
        ]
        wanted: dict[tuple[int, tuple[int, ...]], dict[int, CandidateScore]] = {}
        for text, token in (step for row in steps for candidate in row for step in candidate):
            wanted.setdefault(text, {})[token] = CandidateScore(0.0, 0.0)
        texts = list(wanted)
        for numbers, states in self.states_after(texts):
            for start in range(0, len(numbers), _LOGITS_AT_ONCE):
                part = numbers[start : start + _LOGITS_AT_ONCE]
                reads = [(row, token) for row, n in enumerate(part) for token in wanted[texts[n]]]
                rows, tokens = torch.tensor(reads, device=states.device).T  # (N,) each
                with torch.no_grad():
                    logits = self.model.head(states[start : start + len(part)])  # (n, V)
                    nll = -torch.log_softmax(logits, dim=-1)[rows, tokens]  # (N,)
                    hits = logits.argmax(dim=-1)[rows] == tokens  # (N,)
                scores = map(CandidateScore, nll.tolist(), hits.double().tolist())
                for (row, token), score in zip(reads, scores, strict=True):
                    wanted[texts[part[row]]][token] = score
        return [
            [CandidateScore.mean([wanted[text][t] for text, t in candidate]) for candidate in row]
            for row in steps
        ]

    def states_after(
        self, texts: Sequence[tuple[int, tuple[int, ...]]]
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Final hidden states at the last tokens of texts, in batches.

        Texts that one edited model reads share a row, in which no beginning is repeated
        (:mod:`editkit.models.trees`). Only for edits that can share a batch: :meth:`answers`
        separates the others.

        Args:
            texts: Number of the edited model that reads the text, and token ids, with what its edit
                puts before prompts.

        Yields:
            Numbers of the batch's texts, and their states after the final norm, (n, H).
        """
        longest = longest_tree(self.model, max((len(ids) for _, ids in texts), default=0))
        by_edit: dict[int, list[int]] = {}
        for number, (edit, _) in enumerate(texts):
            by_edit.setdefault(edit, []).append(number)
        rows = [
            (edit, row, [numbers[own] for own, _ in row.read])
            for edit, numbers in by_edit.items()
            for row in trees_of([texts[number][1] for number in numbers], longest)
        ]
        fitting = [row for row in rows if len(row[1]) <= longest]
        for some in (fitting, [row for row in rows if len(row[1]) > longest]):
            for batch in chunks_by_tokens([len(tree) for _, tree, _ in some], self.token_budget):
                chosen = [some[place] for place in batch]
                read = [(b, place) for b, (_, r, _) in enumerate(chosen) for _, place in r.read]
                with self.model.frozen(), torch.no_grad():
                    with self.rows([edit for edit, _, _ in chosen], in_context=True):
                        hidden = forward_trees(self.model, [tree for _, tree, _ in chosen])
                    states = hidden[tuple(torch.tensor(read, device=hidden.device).T)]  # (n, H)
                yield [number for _, _, numbers in chosen for number in numbers], states

    # ------------------------------------------------------------ texts

    def text_nll(
        self, queries: Sequence[TextQuery], *, max_tokens: int | None = None
    ) -> list[list[float]]:
        """Negative log likelihood of the tokens of whole texts, in nats.

        Texts that an edit puts before prompts are read before these texts too, but not scored.

        Args:
            queries: In any order.
            max_tokens: Truncate each text to this many tokens.

        Returns:
            One list per query: a number for every token but the first.

        Raises:
            DeltaError: A truncated text is still longer than the model's context because of the
                texts that its edit puts before it.
            ModelError: A truncated text is still longer than the model's context.
        """
        expect_list(queries, "TextQuery", "queries", "text_nll(queries)")
        self._refresh()
        queries = self.merged(queries)
        rows = {each: self._prompts.text(each, max_tokens) for each in dict.fromkeys(queries)}

        def ask(models: EditedModels, some: Sequence[TextQuery]) -> list[list[float]]:
            return models._score_texts([rows[query] for query in some])

        answers = dict(zip(rows, self.answers(ask, list(rows)), strict=True))
        return [list(answers[query]) for query in queries]

    def _score_texts(self, texts: Sequence[ScoredText]) -> list[list[float]]:
        answers: list[list[float]] = [[] for _ in texts]
        device = self.model.device
        for batch in chunks_by_tokens([len(text.ids) for text in texts], self.token_budget):
            rows = [texts[number] for number in batch]
            ids = padded([row.ids for row in rows], device)  # (B, T)
            ends = torch.tensor([len(row.ids) for row in rows], device=device)  # (B,)
            starts = torch.tensor([row.first for row in rows], device=device)  # (B,)
            with self.model.frozen(), torch.no_grad():
                with self.rows([row.edit for row in rows], in_context=True):
                    states = forward(self.model, ids)[:, :-1]  # (B, T - 1, H)
                column = torch.arange(1, ids.shape[1], device=device)[None]  # of the next token
                real = (column >= starts[:, None]) & (column < ends[:, None])  # (B, T - 1)
                nll = iter(self._token_nll(states[real], ids[:, 1:][real]))
            for number, row in zip(batch, rows, strict=True):
                answers[number] = [next(nll) for _ in row.ids[row.first :]]
        return answers

    def _token_nll(self, states: Tensor, tokens: Tensor) -> list[float]:
        """NLL of the tokens (N,) that follow states (N, H), in chunks to save memory."""
        nll: list[float] = []
        for start in range(0, len(tokens), _LOGITS_AT_ONCE):
            part = slice(start, start + _LOGITS_AT_ONCE)
            log_p = torch.log_softmax(self.model.head(states[part]), dim=-1)  # (n, V)
            nll += (-log_p.gather(1, tokens[part, None])[:, 0]).tolist()
        return nll

    def generate(
        self, queries: Sequence[GenerationQuery], *, tokens: int = 100, top_k: int = 5
    ) -> list[str]:
        """Generate texts with the edited models, in batches with a different edit in each row.

        Draws depend only on the seed and on the name and prompt of the query. A text does not
        depend on the rest of its batch, except through float rounding, which changes about one
        draw in a hundred thousand. Texts that an edit puts before the prompt are read, but not
        returned; if they leave too little of the model's context, a text is shorter, with a
        warning.

        Args:
            queries: In any order.
            tokens: Length of each text, including its prompt (and in a chat, the whole template);
                at most the model's context. An end-of-text token does not end a plain text;
                special tokens are removed (:func:`editkit.editing.generation.text_of`).
            top_k: Sample only from the k most likely tokens.

        Returns:
            One text per query, starting with its prompt; in a chat, the prompt, a line break, and
            the answer up to the special token that ends the turn.

        Raises:
            DeltaError: A prompt is longer than the model's context because of the texts that its
                edit puts before it.
            ModelError: A prompt is longer than the model's context.
        """
        expect_list(queries, "GenerationQuery", "queries", "generate(queries)")
        self._refresh()
        queries = self.merged(queries)
        tokens = min(tokens, self.model.context_length)

        def ask(models: EditedModels, some: Sequence[GenerationQuery]) -> list[str]:
            return models._generate(some, tokens, top_k)

        keys = {query: (query, tokens, top_k) for query in queries}
        new = [query for query, key in keys.items() if key not in self._generated]
        texts = self.answers(ask, new)
        self._generated.update(zip([keys[query] for query in new], texts, strict=True))
        return [self._generated[keys[query]] for query in queries]

    def _generate(self, queries: Sequence[GenerationQuery], tokens: int, top_k: int) -> list[str]:
        prompts = [self.prompt(query) for query in queries]
        # Length of each whole text, with what the edit puts before it.
        sizes = [min(tokens + each.before, self.model.context_length) for each in prompts]
        shortest = min(
            (n - each.before for n, each in zip(sizes, prompts, strict=True)), default=tokens
        )
        if shortest < tokens:
            self._warn_of_short_texts(tokens, shortest)
        # Batches of similar length: a batch takes as many steps as its shortest prompt needs.
        order = sorted(range(len(queries)), key=lambda number: len(prompts[number].ids))
        most = max(1, self.token_budget // max(sizes, default=tokens))
        size = -(-len(order) // -(-len(order) // most)) if order else most  # batches of equal size
        texts = [""] * len(queries)
        for batch in (order[i : i + size] for i in range(0, len(order), size)):
            names = [(self.seed, queries[number].name, queries[number].prompt) for number in batch]
            uniform = draws(names, tokens)  # (B, tokens)
            before = [prompts[number].before for number in batch]
            longest = max(sizes[number] for number in batch)
            if any(before):
                uniform = _after(uniform, before, longest)
            edits = [queries[number].edit for number in batch]
            rows = [prompts[number].ids for number in batch]
            with self.model.frozen(), torch.no_grad(), self.rows(edits, in_context=True):
                written = continued(self.model, rows, uniform, top_k=top_k)
            for number, ids in zip(batch, written, strict=True):
                own = ids[: max(sizes[number], len(prompts[number].ids))]
                texts[number] = self._written(queries[number], own, prompts[number])
        return texts

    def _warn_of_short_texts(self, tokens: int, shortest: int) -> None:
        _log.warning(
            "generated texts have down to %d tokens instead of %d: after the texts that the edits "
            "put before prompts, no more fit into the context of %d tokens of %s",
            shortest,
            tokens,
            self.model.context_length,
            self.model.name,
        )

    def _written(self, query: GenerationQuery, ids: Sequence[int], prompt: ReadPrompt) -> str:
        """A generated text, without what the edit puts before the prompt."""
        n = len(prompt.ids)
        if query.chat:
            return self._answered(query.prompt, ids[n:])
        tokenizer = self.model.tokenizer
        if prompt.ids == prompt.alone:
            return text_of(tokenizer, ids)
        return f"{text_of(tokenizer, prompt.alone)}{text_after(tokenizer, ids[:n], ids[n:])}"

    def _answered(self, prompt: str, ids: Sequence[int]) -> str:
        """A chat as text: the user's turn, and the answer up to the end of its turn."""
        special = self.model.special.ids
        end = next((i for i, token in enumerate(ids) if token in special), len(ids))
        return f"{prompt}\n{self.model.tokenizer.decode(ids[:end])}"


def _changes_something(delta: WeightDelta) -> bool:
    return bool(delta.changes) or delta.context is not None


def _is_batchable(model: LanguageModel, delta: WeightDelta) -> bool:
    """Whether the delta changes only weights and biases of linear modules, none of them shared."""
    head = model.hf.get_output_embeddings()
    for name in delta.changes:
        path, _, field = name.rpartition(".")
        module = model.module(path)
        if field not in ("weight", "bias") or not is_matrix_module(module) or module is head:
            return False
    return True


def _after(uniform: Tensor, before: Sequence[int], n: int) -> Tensor:
    """Random numbers (B, N) for texts of n tokens: row b starts at column ``before[b]``."""
    moved = uniform.new_zeros(len(uniform), n)
    for row, start in enumerate(before):
        moved[row, start : start + uniform.shape[1]] = uniform[row, : n - start]
    return moved
