"""ROME's key k*, value v* and rank-one update, for any editor that builds on them.

Meng et al. 2022, section 3.1 and appendix E.5 (first version: sections 4.3, 4.4 and D.5). MEMIT,
EMMET, AlphaEdit and R-ROME start from the same key and value. With contexts x_j, subject s, prompt
p, new object o*, essence prompt p' = "s is a", layer l, and m the output of l's MLP at the
subject's last token:

    k* = 1/N sum_j k(x_j + s)                                                              (3)
    v* = argmin_z L(z), and with z = v0 + delta, v0 the output in the bare prompt,
    L(z) = 1/N sum_j -log P_{m := z}[o* | x_j + p]                                         (4a)
         + kl_factor · KL(P_{m := z}[. | p'] || P[. | p'])                                 (4b)
         + weight_decay · |delta| / |v0|²                                                  (E.5)
    W' = W + Λ (C⁻¹k*)ᵀ,  Λ = (v* - W k*) / ((C⁻¹k*)ᵀ k*)                                  (2)

The contexts x_j and the rows x_j + p and p' as tokens are made by
:mod:`editkit.editing.rome_rows`. This module follows with k at any layer
(:func:`keys_and_outputs`), the minimisation of L (:func:`find_values`; its terms are in
``_ValueLoss``), and equation 2 (:func:`rank_one_update`).

Many requests are optimised in parallel. Constants are computed once: the attention keys and values
of all tokens before the edited one, and all blocks up to the edited one. Each evaluation of L runs
only the blocks above, from the edited token onward.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from editkit.editing.optimise import minimise
from editkit.editing.rome_rows import InputRow, RequestRows
from editkit.editing.rome_value_config import ValueConfig
from editkit.editing.target_loss import TargetLoss, logit_losses, logits_after
from editkit.errors import ModelError
from editkit.models.activations import fused_gelu
from editkit.models.encoding import Completion, chunks_by_tokens, padded
from editkit.models.language_model import LanguageModel
from editkit.models.running import Reads, Tail, forward, recording, replacing, run_prefix
from editkit.progress import counting

__all__ = [
    "RankOneUpdate",
    "Site",
    "Value",
    "ValueLoss",
    "check_block_outputs",
    "find_values",
    "keys_and_outputs",
    "rank_one_update",
]

Site = Literal["mlp_out", "block"]
"""Where v0 and v* are read: the output of the MLP's output projection (ROME), or of the whole
block, which is the residual stream (MEMIT, AlphaEdit). The offset has the same effect at both,
unless a norm or a scale follows the MLP: then offsets enter at the projection, and ``block`` is
refused."""


# ---------------------------------------------------------------- keys k


def keys_and_outputs(
    model: LanguageModel, rows: Sequence[InputRow], layer: int, *, site: Site = "mlp_out"
) -> tuple[Tensor, Tensor]:
    """k of equation 3 and the corresponding output, at the edited token of each row.

    Args:
        model: The model, including any applied edits.
        rows: The rows, such as :attr:`RequestRows.key_rows`.
        layer: The block.
        site: Where outputs are read.

    Returns:
        Inputs of the MLP's output projection, (rows, D), and outputs at the site, (rows, H), both
        float32.
    """
    ids = padded([row.ids for row in rows], model.device)  # (B, T)
    places = torch.tensor([row.position for row in rows], device=model.device)
    everywhere = torch.arange(len(rows), device=model.device)
    projection = model.path(layer, "mlp_out")
    paths = [projection] if site == "mlp_out" else [projection, model.architecture.block(layer)]
    with model.frozen(), torch.no_grad(), recording(model, paths, stop=True) as seen:
        forward(model, ids)
    keys = seen[projection].inputs.reshape(*ids.shape, -1)[everywhere, places]
    outputs = seen[paths[-1]].output.reshape(*ids.shape, -1)[everywhere, places]
    return keys.float(), outputs.float()


# ---------------------------------------------------------------- the value v*


@dataclasses.dataclass(frozen=True)
class ValueLoss:
    """One evaluation of L for one request: the sum and its three terms, including their factors."""

    total: float
    nll: float
    kl: float
    decay: float


@dataclasses.dataclass(frozen=True)
class Value:
    """The key and the value of one request.

    Attributes:
        keys: k in each context averaged into k*, bare prompt first if included, (N, D). The mean
            over dim 0 is k*.
        outputs: Output at the site in the same rows, (N, H).
        bare_key: k in the bare prompt, (D,).
        v0: Output at the site in the bare prompt, (H,).
        delta: The optimised offset, (H,).
        losses: Every evaluation of L, in order.
        tokens: Number of tokens of the target.
    """

    keys: Tensor
    outputs: Tensor
    bare_key: Tensor
    v0: Tensor
    delta: Tensor
    losses: tuple[ValueLoss, ...]
    tokens: int

    @property
    def v_star(self) -> Tensor:
        """v* = v0 + delta, (H,)."""
        return self.v0 + self.delta

    @classmethod
    def of(
        cls,
        request: RequestRows,
        keys: Tensor,
        outputs: Tensor,
        delta: Tensor,
        losses: Sequence[ValueLoss],
    ) -> Value:
        """Build the value of a request from the keys and outputs of its rows.

        Args:
            request: The rows of the request.
            keys: k in each row of ``(*contexts, *others)``, (rows, D), float32.
            outputs: (rows, H), float32.
            delta: The offset, (H,).
            losses: Every evaluation of L.
        """
        averaged = list(request.keys)
        return cls(
            keys=keys[averaged],
            outputs=outputs[averaged],
            bare_key=keys[request.bare],
            v0=outputs[request.bare],
            delta=delta,
            losses=tuple(losses),
            tokens=max(1, len(request.contexts[0].labels)),
        )


def find_values(
    model: LanguageModel,
    requests: Sequence[RequestRows],
    layer: int,
    config: ValueConfig,
    *,
    site: Site = "mlp_out",
) -> list[Value]:
    """Find v* of each request by gradient descent on L; batching does not change the results.

    Args:
        model: The model; not modified.
        requests: Rows of each request, all with the same number of contexts.
        layer: The block whose output is optimised.
        config: Hyperparameters.
        site: Where v0 and v* are read.

    Raises:
        ModelError: The site is the block, and the MLP's output is not simply added to the stream;
            or the block has experts instead of one MLP.
    """
    if not requests:
        return []
    if site == "block":
        check_block_outputs(model, layer)
    lengths = [max(len(row.ids) - row.position for row in each.in_loss) for each in requests]
    bytes_per_token = 4 * 40 * model.hidden_size * (model.n_layers - layer)
    budget = config.memory_mb * 2**20 // bytes_per_token
    values: dict[int, Value] = {}
    total = len(requests) * config.evaluations
    with (
        model.frozen(),
        fused_gelu(model.hf),
        torch.enable_grad(),
        counting("optimising values", total) as advance,
    ):
        for group in chunks_by_tokens(lengths, budget, rows=len(requests[0].in_loss)):
            some = [requests[i] for i in group]
            together = _find_together(model, some, layer, config, site, advance)
            values.update(zip(group, together, strict=True))
    return [values[i] for i in range(len(requests))]


def check_block_outputs(model: LanguageModel, layer: int) -> None:
    """Refuse a block whose output values cannot be written to through its MLP's projection.

    Raises:
        ModelError: The block does not add the output of the projection to the stream as it is.
    """
    if not _adds_directly(model, layer):
        raise ModelError(
            f"blocks of {model.hf.config.model_type} do not add the output of the MLP's projection "
            "as it is, so a change of the block's output is not a change of that projection.",
            hint='Read values at the projection: site="mlp_out".',
        )


def _adds_directly(model: LanguageModel, layer: int) -> bool:
    """Whether the block adds the output of the MLP's output projection to the stream as it is."""
    architecture = model.architecture
    as_it_is = architecture.adds(layer, "mlp_out") == model.path(layer, "mlp_out")
    return as_it_is and architecture.residual_scale == 1


def _find_together(
    model: LanguageModel,
    requests: Sequence[RequestRows],
    layer: int,
    config: ValueConfig,
    site: Site,
    advance: Callable[[int], object],
) -> list[Value]:
    batch = _Batch.record(model, requests, layer, config, site)
    seen = _read_rows(model, batch, requests, layer, site)
    v0 = torch.stack(
        [outputs[request.bare] for (_, outputs), request in zip(seen, requests, strict=True)]
    )  # (R, H)
    norms = v0.norm(dim=1)  # (R,)
    before: Tensor | None = None
    if config.offset_from == "bare":
        with torch.no_grad():
            before = batch.after_essence(batch.logits(torch.zeros_like(v0)))  # unchanged model
        batch = batch.moved_to(v0)
    deltas = [torch.zeros_like(row, requires_grad=True) for row in v0]

    def onto_the_ball(request: int, variables: Sequence[Tensor]) -> None:
        """|delta| <= clamp · |v0|."""
        for delta in variables:
            radius, norm = config.clamp * norms[request], delta.norm()
            if norm > radius:
                delta.mul_(radius / norm)

    history = minimise(
        [[delta] for delta in deltas],
        _ValueLoss(batch, config, norms, before),
        lr=config.lr,
        evaluations=config.evaluations,
        stop_loss=config.stop_loss,
        project=None if config.clamp is None else onto_the_ball,
        advance=advance,
    )
    return [
        Value.of(request, keys, outputs, delta.detach(), [ValueLoss(*row) for row in rows])
        for request, (keys, outputs), delta, rows in zip(
            requests, seen, deltas, history, strict=True
        )
    ]


def _read_rows(
    model: LanguageModel,
    batch: _Batch,
    requests: Sequence[RequestRows],
    layer: int,
    site: Site,
) -> list[tuple[Tensor, Tensor]]:
    """Keys and outputs of each request's context rows and other rows, (rows, D) and (rows, H)."""
    n = batch.rows_per_request
    keys = batch.keys.reshape(len(requests), n, -1)[:, batch.contexts].float()  # (R, contexts, D)
    outputs = batch.outputs.reshape(len(requests), n, -1)[:, batch.contexts].float()
    rows = []
    for r, request in enumerate(requests):
        parts = [(keys[r], outputs[r])]
        if request.others:
            parts.append(keys_and_outputs(model, request.others, layer, site=site))
        rows.append((torch.cat([k for k, _ in parts]), torch.cat([o for _, o in parts])))
    return rows


@dataclasses.dataclass
class _ValueLoss:
    """L of several requests, as an objective for :func:`editkit.editing.optimise.minimise`.

    Attributes:
        batch: The rows.
        config: Hyperparameters.
        norms: |v0| of each request, (R,).
        before: Log probabilities of the unchanged model after p', (R, V); None: those of the first
            evaluation, at delta = 0.
    """

    batch: _Batch
    config: ValueConfig
    norms: Tensor
    before: Tensor | None

    def evaluate(self, variables: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
        """L and its terms (4a), (4b), and the decay, (R,) each."""
        deltas = [delta for (delta,) in variables]
        logits = self.batch.logits(torch.stack(deltas))  # (N + R, V)
        if self.before is None:
            self.before = self.batch.after_essence(logits.detach())
        of_tokens, divergences = logit_losses(logits, self.batch.loss.token, self.before)
        nll = self.batch.loss.per_edit(of_tokens)  # (R,)
        kl = self.config.kl_factor * divergences  # (R,)
        sizes = torch.stack([delta.norm() for delta in deltas])  # gradient at 0 is 0
        decay = self.config.weight_decay * sizes / self.norms**2  # (R,)
        return nll + kl + decay, nll, kl, decay

    def select(self, requests: Sequence[int]) -> _ValueLoss:
        before = None if self.before is None else self.before[list(requests)]
        norms = self.norms[list(requests)]
        return _ValueLoss(self.batch.select(requests), self.config, norms, before)


@dataclasses.dataclass(frozen=True)
class _Batch:
    """All rows of several requests, from the edited token; each request's essence row comes last.

    A context that was sampled several times is one row, with a weight.

    Attributes:
        tail: The blocks above the edited layer; from the edited layer on, if ``entry`` is given.
        keys: Input of the MLP's output projection at the edited token, (B, D).
        outputs: Output at the site there, (B, H).
        rows_per_request: Number of different context rows plus one.
        contexts: The row of each context among its request's rows.
        loss: Loss (4a) of each request's target.
        essence: Position in each request's essence row where the prediction is read, (R,).
        shift: Added to each row's output in addition to the offset, (B, H); None for nothing.
        entry: The module where offsets enter, if its output is not simply added to the stream.
    """

    model: LanguageModel
    tail: Tail
    keys: Tensor
    outputs: Tensor
    rows_per_request: int
    contexts: Sequence[int]
    loss: TargetLoss
    essence: Tensor
    shift: Tensor | None = None
    entry: str | None = None

    @classmethod
    def record(
        cls,
        model: LanguageModel,
        requests: Sequence[RequestRows],
        layer: int,
        config: ValueConfig,
        site: Site,
    ) -> _Batch:
        device = model.device
        together = [tuple(rows) for rows in zip(*(r.contexts for r in requests), strict=True)]
        different = list(dict.fromkeys(together))  # contexts, as their rows of all requests
        per_request = [
            [*own, request.essence]
            for own, request in zip(zip(*different, strict=True), requests, strict=True)
        ]
        rows = [row for own in per_request for row in own]
        starts = torch.tensor([row.position for row in rows], device=device)  # (B,)
        path = model.path(layer, "mlp_out")
        entry = None if _adds_directly(model, layer) else path
        with torch.no_grad():
            prefix = None
            if int(starts.max()) > 0:
                # A row that starts with the edited token has no prefix: use one masked token.
                before = padded([row.ids[: max(row.position, 1)] for row in rows], device)
                prefix, _ = run_prefix(model, before, starts)
            ids = padded([row.ids[row.position :] for row in rows], device)  # (B, S)
            with recording(model, [path]) as seen:
                tail = Tail.record(model, prefix, ids, starts, start=layer + (entry is None))
        outputs = seen[path].output.reshape(*ids.shape, -1) if site == "mlp_out" else tail.hidden
        facts = [
            [Completion(row.ids[: row.read + 1], row.labels) for row in own[:-1]]
            for own in per_request
        ]
        loss = TargetLoss.of(facts, device=device, reduction=config.target_loss)
        counts = torch.tensor([together.count(each) for each in different], device=device)
        times = counts / counts.float().mean()  # of each context in the mean, (contexts,)
        # Each request's essence row follows its context rows, and rows start at the edited token.
        row_in_batch = loss.row + loss.edit
        loss = dataclasses.replace(
            loss,
            row=row_in_batch,
            column=loss.column - starts[row_in_batch],
            weight=loss.weight * times[loss.row % len(different)],
        )
        essence = [request.essence.read - request.essence.position for request in requests]
        return cls(
            model=model,
            tail=tail,
            keys=seen[path].inputs.reshape(*ids.shape, -1)[:, 0],  # (B, D)
            outputs=outputs[:, 0],  # (B, H)
            rows_per_request=len(different) + 1,
            contexts=[different.index(each) for each in together],
            loss=loss,
            essence=torch.tensor(essence, device=device),
            entry=entry,
        )

    def logits(self, deltas: Tensor) -> Tensor:
        """Run the upper blocks with offsets added.

        Args:
            deltas: (R, H)

        Returns:
            Logits that predict the N target tokens, then those in each essence row, (N + R, V).
        """
        n = self.rows_per_request
        offsets = deltas.repeat_interleave(n, dim=0)  # (B, H)
        if self.shift is not None:
            offsets = offsets + self.shift
        return logits_after(self.model, self._states(offsets))

    def after_essence(self, logits: Tensor) -> Tensor:
        """Log probabilities after each essence prompt, (R, V), from :meth:`logits`."""
        return torch.log_softmax(logits[len(self.loss.token) :], dim=-1)

    @functools.cached_property
    def _reads(self) -> Reads:
        """Where the N target tokens are predicted, and where each essence row is read."""
        n = self.rows_per_request
        essence_rows = n - 1 + n * torch.arange(len(self.essence), device=self.essence.device)
        row = torch.cat([self.loss.row, essence_rows])  # (N + R,)
        column = torch.cat([self.loss.column, self.essence])
        return Reads.of(row, column, len(self.keys))

    def _states(self, offsets: Tensor) -> Tensor:
        """States after the last block, with an offset at each row's edited token, (B, H).

        Returns:
            The states that are read, (N + R, H).
        """

        def shifted(states: Tensor) -> Tensor:
            states = states.clone()  # (B, S, H)
            states[:, 0] = states[:, 0] + offsets.to(states.device, states.dtype)
            return states

        if self.entry is None:
            return self.tail.read(shifted(self.tail.hidden), self._reads)
        shape = self.tail.hidden.shape

        def at_entry(_: Tensor, output: Tensor) -> Tensor:
            return shifted(output.reshape(shape)).reshape(output.shape)

        with replacing(self.model, {self.entry: at_entry}):
            return self.tail.read(self.tail.hidden, self._reads)

    def moved_to(self, values: Tensor) -> _Batch:
        """The batch with the output of every row replaced by its request's value, (R, H)."""
        wanted = values.repeat_interleave(self.rows_per_request, dim=0)  # (B, H)
        return dataclasses.replace(self, shift=wanted - self.outputs.float())

    def select(self, requests: Sequence[int]) -> _Batch:
        """The rows of a subset of the requests."""
        n = self.rows_per_request
        chosen = torch.tensor(requests, device=self.essence.device)
        rows = (chosen[:, None] * n + torch.arange(n, device=chosen.device)).reshape(-1)  # (B',)
        return dataclasses.replace(
            self,
            tail=self.tail.select(rows),
            keys=self.keys[rows],
            outputs=self.outputs[rows],
            loss=self.loss.select(requests, rows),
            essence=self.essence[chosen],
            shift=None if self.shift is None else self.shift[rows],
        )


# ---------------------------------------------------------------- the update


@dataclasses.dataclass(frozen=True)
class RankOneUpdate:
    """Equation 2 for one request: W' = W + u rightᵀ, input-major.

    Attributes:
        value: Key and value.
        u: C⁻¹k* scaled to unit norm, (D,).
        right: Λ of the paper, rescaled to match u, (H,).
        divisor: Inner product of u and the key that is mapped to v*.
    """

    value: Value
    u: Tensor
    right: Tensor
    divisor: float


def rank_one_update(
    value: Value,
    solve: Callable[[Tensor], Tensor] | None = None,
    *,
    key: Literal["bare", "mean"] = "mean",
    direction: Literal["bare", "mean"] = "mean",
) -> RankOneUpdate:
    """The update that maps a key to v* with the least change for a corpus's keys (equation 2).

    By default both keys are k*, as in the equation. ROME's published code maps the key of the bare
    prompt along the direction of k*; R-ROME uses k* for both, p-ROME the bare key.

    Args:
        value: Key and value.
        solve: Maps k, (D,), to C⁻¹k; None if C is the identity.
        key: The key that is mapped to v*: the mean over contexts k*, or that of the bare prompt.
        direction: The key k that gives u = C⁻¹k.
    """
    keys = {"bare": value.bare_key, "mean": value.keys.mean(dim=0)}  # k*, (D,)
    outputs = {"bare": value.v0, "mean": value.outputs.mean(dim=0)}  # of W, which is linear, (H,)
    u = keys[direction] if solve is None else solve(keys[direction])
    u = u / u.norm()
    divisor = keys[key] @ u
    return RankOneUpdate(value, u, (value.v_star - outputs[key]) / divisor, float(divisor))
