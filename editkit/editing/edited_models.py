"""Many edited models behind one forward pass: each row of a batch sees its own delta.

For row b of a batch, let x_b be the input to a linear module, W the module's weight, and dW_b the
change to W in the row's delta. Then

    y_b = x_b W + x_b dW_b

Terms are keyed by delta: rows that share a delta share its memory. Low-rank and row changes cost
two thin products, dense changes one product per delta. The model's weights are never modified.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from editkit.editing.deltas import Change, Dense, LowRank, Rows, WeightDelta, applied, check_all_fit
from editkit.editing.generation import continued, draws, text_of
from editkit.models.encoding import Completion, chunks_by_tokens, padded
from editkit.models.language_model import LanguageModel
from editkit.models.running import forward, forward_after, replacing, run_prefix
from editkit.models.weight_layout import is_matrix_module
from editkit.prompts import check_chat, clean_fields, clean_prompt, clean_target

__all__ = ["CandidateQuery", "CandidateScore", "EditedModels", "GenerationQuery", "TextQuery"]

_LOGITS_AT_ONCE = 1024  # positions; for GPT-2's vocabulary about 200 MB


# ---------------------------------------------------------------- questions and answers


@dataclasses.dataclass(frozen=True)
class CandidateQuery:
    """How likely are some candidates after a prompt?

    Attributes:
        edit: Number of the edited model that answers.
        prompt: Text up to the candidates.
        candidates: Continuations; white space around them is dropped.
        separator: Text between prompt and candidate; None: the default rule.
        chat: Whether the prompt is a user's turn in a chat.

    Raises:
        RequestError: A text cannot be used.
    """

    edit: int
    prompt: str
    candidates: tuple[str, ...]
    separator: str | None = None
    chat: bool = False

    def __post_init__(self) -> None:
        clean_fields(self)
        candidates = (clean_target(each, "candidate", self.separator) for each in self.candidates)
        object.__setattr__(self, "candidates", tuple(candidates))


class CandidateScore(NamedTuple):
    """How likely one edited model finds a candidate after a prompt.

    Attributes:
        nll: Mean negative log likelihood per token of the candidate, in nats.
        argmax: Share of its tokens that are the most likely next token, given the true tokens
            before them; 1 if greedy decoding would produce the candidate.
    """

    nll: float
    argmax: float


@dataclasses.dataclass(frozen=True)
class TextQuery:
    """How likely is a whole text?

    Attributes:
        edit: Number of the edited model that answers.
        text: The text.
    """

    edit: int
    text: str


@dataclasses.dataclass(frozen=True)
class GenerationQuery:
    """How does a prompt continue?

    Attributes:
        edit: Number of the edited model that answers.
        prompt: Start of the text.
        name: Random draws depend only on this name, the prompt, and the seed, not on the rest of
            the batch. Use the case and the index of the prompt.
        chat: Whether the prompt is a user's turn in a chat, which the model answers.

    Raises:
        RequestError: The prompt cannot be used.
    """

    edit: int
    prompt: str
    name: str = ""
    chat: bool = False

    def __post_init__(self) -> None:
        check_chat(self.chat)
        object.__setattr__(self, "prompt", clean_prompt(self.prompt, "prompt", None))


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
    work.

    Args:
        model: The unedited model, or a model with applied edits, which stay applied.
        deltas: One per edited model; a delta without changes means the model itself. For a joint
            edit, repeat the delta.
        token_budget: Maximum number of tokens in one forward pass, including padding.
        seed: Seed of generated texts.

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
    ) -> None:
        check_all_fit(model, deltas)
        self.model = model
        self.deltas = tuple(deltas)
        self.token_budget = token_budget
        self.seed = seed
        self._batchable = all(_is_batchable(model, delta) for delta in deltas)
        self._scored: dict[CandidateQuery, list[CandidateScore]] = {}
        self._generated: dict[tuple[GenerationQuery, int, int], str] = {}
        self._state = model.weights.state()

    def __len__(self) -> int:
        return len(self.deltas)

    def _refresh(self) -> None:
        """Clear the cache if the weights changed, and raise if a delta no longer fits."""
        state = self.model.weights.state()
        if state != self._state:
            check_all_fit(self.model, self.deltas)
            self._scored.clear()
            self._generated.clear()
            self._state = self.model.weights.state()

    def unedited(self) -> EditedModels:
        """The same number of models, none of them edited."""
        empty = [dataclasses.replace(delta, changes={}) for delta in self.deltas]
        return EditedModels(self.model, empty, token_budget=self.token_budget, seed=self.seed)

    @contextlib.contextmanager
    def rows(self, edits: Sequence[int]) -> Iterator[None]:
        """Inside, row ``b`` of a forward pass of the model sees delta ``edits[b]``."""
        hooks: dict[str, Callable[[Tensor, Tensor], Tensor]] = {}
        for path in self._modules():
            device = next(self.model.module(path).parameters()).device
            terms = [
                term
                for name in ("weight", "bias")
                for term in _terms(
                    [self.deltas[e].changes.get(f"{path}.{name}") for e in edits], device
                )
            ]
            if terms:
                hooks[path] = _adding(terms, len(edits))
        with replacing(self.model, hooks):
            yield

    def _modules(self) -> list[str]:
        """Paths of all modules changed by any delta."""
        names = (name for delta in self.deltas for name in delta.changes)
        return list(dict.fromkeys(name.rpartition(".")[0] for name in names))

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
        for edit, delta in enumerate(self.deltas):
            mine = [number for number, query in enumerate(queries) if query.edit == edit]
            if mine:
                with applied(self.model, delta):  # changes the weights themselves
                    own = ask(self.unedited(), [queries[number] for number in mine])
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
        """
        self._refresh()
        new = [query for query in dict.fromkeys(queries) if query not in self._scored]
        scores = self.answers(EditedModels._score_candidates, new)
        self._scored.update(zip(new, scores, strict=True))
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
        # Candidates nearly always agree on where the prompt's tokens end; if not, the query is
        # split into several prompts.
        prompts: dict[tuple[int, tuple[int, ...]], list[tuple[int, Completion]]] = {}
        for (number, place), completion in zip(flat, completions, strict=True):
            prompts.setdefault((number, completion.prompt), []).append((place, completion))
        answers = [[CandidateScore(0.0, 0.0)] * len(query.candidates) for query in queries]
        # If all candidates are single tokens, no second pass is needed: batch these separately.
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
        # Only longer targets need a second pass, on top of the cached keys of their prompts.
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
            max_tokens: Truncate each text to this many tokens.

        Returns:
            One list per query: a number for every token but the first.

        Raises:
            ModelError: A truncated text is still longer than the model's context.
        """
        self._refresh()
        texts = [query.text for query in queries]
        cut = [encoding.first(max_tokens) for encoding in self.model.encode(texts)]
        for encoding in cut:
            self.model.check_length(encoding)
        tokens = {query: e.ids for query, e in zip(queries, cut, strict=True)}

        def ask(models: EditedModels, some: Sequence[TextQuery]) -> list[list[float]]:
            return models._score_texts([(query.edit, tokens[query]) for query in some])

        return self.answers(ask, queries)

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
        draw in a hundred thousand.

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
            ModelError: A prompt is longer than the model's context.
        """
        self._refresh()
        tokens = min(tokens, self.model.context_length)

        def ask(models: EditedModels, some: Sequence[GenerationQuery]) -> list[str]:
            return models._generate(some, tokens, top_k)

        keys = {query: (query, tokens, top_k) for query in queries}
        new = [query for query, key in keys.items() if key not in self._generated]
        texts = self.answers(ask, new)
        self._generated.update(zip([keys[query] for query in new], texts, strict=True))
        return [self._generated[keys[query]] for query in queries]

    def _generate(self, queries: Sequence[GenerationQuery], tokens: int, top_k: int) -> list[str]:
        encodings = self.model.read(
            [query.prompt for query in queries], chat=[query.chat for query in queries]
        )
        for encoding in encodings:
            self.model.check_length(encoding)
        # Batches of similar length: a batch takes as many steps as its shortest prompt needs.
        order = sorted(range(len(queries)), key=lambda number: len(encodings[number]))
        most = max(1, self.token_budget // tokens)
        size = -(-len(order) // -(-len(order) // most)) if order else most  # batches of equal size
        texts = [""] * len(queries)
        for batch in (order[i : i + size] for i in range(0, len(order), size)):
            names = [(self.seed, queries[number].name, queries[number].prompt) for number in batch]
            prompts = [encodings[number].ids for number in batch]
            edits = [queries[number].edit for number in batch]
            with self.model.frozen(), torch.no_grad(), self.rows(edits):
                written = continued(self.model, prompts, draws(names, tokens), top_k=top_k)
            for number, ids in zip(batch, written, strict=True):
                if queries[number].chat:
                    answer = ids[len(encodings[number]) :]
                    texts[number] = self._answered(queries[number].prompt, answer)
                else:
                    texts[number] = text_of(self.model.tokenizer, ids)
        return texts

    def _answered(self, prompt: str, ids: Sequence[int]) -> str:
        """A chat as text: the user's turn, and the answer up to the end of its turn."""
        special = self.model.special.ids
        end = next((i for i, token in enumerate(ids) if token in special), len(ids))
        answer = str(self.model.tokenizer.decode(ids[:end]))
        return f"{prompt}\n{answer}"


# ---------------------------------------------------------------- x_b dW_b

_Term = Callable[[Tensor, Tensor], Tensor]
"""Maps a module's input (B, T, in) and output (B, T, out) to the output plus a term."""


def _is_batchable(model: LanguageModel, delta: WeightDelta) -> bool:
    """Whether the delta changes only weights and biases of linear modules, none of them shared."""
    head = model.hf.get_output_embeddings()
    for name in delta.changes:
        path, _, field = name.rpartition(".")
        module = model.module(path)
        if field not in ("weight", "bias") or not is_matrix_module(module) or module is head:
            return False
    return True


def _adding(terms: Sequence[_Term], n_rows: int) -> _Term:
    """Adds all terms; some models flatten rows and tokens before they call the MLP."""

    def add(inputs: Tensor, output: Tensor) -> Tensor:
        x = inputs.reshape(n_rows, -1, inputs.shape[-1])  # (B, T, in)
        y = output.reshape(n_rows, -1, output.shape[-1])  # (B, T, out)
        for term in terms:
            y = term(x, y)
        return y.reshape(output.shape)

    return add


def _terms(changes: Sequence[Change | None], device: torch.device) -> list[_Term]:
    """Terms that add a parameter's changes: ``changes[b]`` to row b, None for no change."""
    rows: dict[int, list[int]] = {}  # keyed by identity: rows with the same delta share its changes
    for row, change in enumerate(changes):
        if change is not None:
            rows.setdefault(id(change), []).append(row)
    distinct = {id(change): change for change in changes if change is not None}
    low_rank = [change for change in distinct.values() if isinstance(change, LowRank)]
    terms: list[_Term] = []
    if low_rank:
        places = {id(change): place for place, change in enumerate(low_rank)}
        index = [places.get(id(change), len(low_rank)) for change in changes]
        terms.append(_low_rank_term(low_rank, index, device))
    for key, change in distinct.items():
        if not isinstance(change, LowRank):
            terms.append(_single_term(change, torch.tensor(rows[key], device=device), device))
    return terms


def _low_rank_term(changes: Sequence[LowRank], index: Sequence[int], device: torch.device) -> _Term:
    """Adds ``x_b L_i R_i``, i = ``index[b]``, or zero if i equals the number of changes."""
    n, rank = len(changes), max(change.left.shape[1] for change in changes)
    d, h = changes[0].left.shape[0], changes[0].right.shape[1]
    shared = n == 1 and not any(index)  # one delta for all rows
    left = torch.zeros(n + (not shared), d, rank, device=device)  # ranks padded with zeros
    right = torch.zeros(n + (not shared), rank, h, device=device)  # the last change is zero
    for place, change in enumerate(changes):
        left[place, :, : change.left.shape[1]] = change.left
        right[place, : change.right.shape[0]] = change.right
    rows = torch.tensor(index, device=device)  # (B,)

    def of_rows(factor: Tensor) -> Tensor:
        return factor.expand(len(index), -1, -1) if shared else factor[rows]

    def add(x: Tensor, y: Tensor) -> Tensor:
        thin = torch.bmm(x, of_rows(left.to(x.dtype)))  # (B, T, r)
        return y + torch.bmm(thin, of_rows(right.to(x.dtype)))  # (B, T, out)

    return add


def _single_term(change: Change, rows: Tensor, device: torch.device) -> _Term:
    """Adds a dense, row, or bias change to the rows that share it."""

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
