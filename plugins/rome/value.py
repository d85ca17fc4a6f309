"""The new value v*: an offset to the MLP's output at one token, found by gradient descent.

Several requests are optimised side by side. What cannot change is computed once: keys and values
of everything before the edited token, and all blocks up to the edited one. Each step runs only
the blocks above it on the tokens from the edited one on, and forms logits only where they are
read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from editkit.models import LanguageModel
from editkit.models.encoding import padded
from editkit.models.running import Tail, forward, recording, run_prefix
from editkit_plugins.rome.config import RomeConfig
from editkit_plugins.rome.rows import RequestRows, Row


@dataclasses.dataclass(frozen=True)
class Loss:
    """One evaluation of the loss of one request, its terms weighted."""

    total: float
    nll: float
    kl: float
    decay: float


@dataclasses.dataclass(frozen=True)
class Value:
    """What was read and found for one request.

    Attributes:
        keys: Input of the edited module at the edited token, in each row that the key k* is over;
            the bare prompt first, if it is one of them, (N, D).
        outputs: Output of the edited module there, (N, H).
        bare_key: Its input there in the bare prompt, (D,).
        v0: Its output there in the bare prompt, (H,).
        delta: The offset that was found, (H,).
        losses: Every evaluation, in order.
        tokens: How many tokens the target has.
    """

    keys: Tensor
    outputs: Tensor
    bare_key: Tensor
    v0: Tensor
    delta: Tensor
    losses: tuple[Loss, ...]
    tokens: int


def find_values(
    model: LanguageModel, requests: Sequence[RequestRows], layer: int, config: RomeConfig
) -> list[Value]:
    """Optimise the values of several requests together; each comes out as if alone.

    Args:
        model: The model, its weights frozen.
        requests: Rows of each request.
        layer: The edited block.
        config: Hyperparameters.
    """
    batch = _Batch.record(model, requests, layer, config)
    seen = _seen(model, batch, requests, layer)
    v0 = torch.stack(
        [outputs[request.bare] for (_, outputs), request in zip(seen, requests, strict=True)]
    )  # (R, H)
    norms = v0.norm(dim=1)  # (R,)
    deltas = [torch.zeros_like(row, requires_grad=True) for row in v0]
    optimiser = torch.optim.Adam(deltas, lr=config.lr)
    losses: list[list[Loss]] = [[] for _ in requests]
    active = list(range(len(requests)))
    before: Tensor | None = None
    if config.offset_from == "bare":
        with torch.no_grad():
            before = batch.evaluate(torch.zeros_like(v0))[1]  # of the unchanged model
        batch = batch.moved_to(v0)
    evaluations = evaluations_of(config)
    for step in range(evaluations):
        nll, after = batch.evaluate(torch.stack([deltas[r] for r in active]))  # (R,), (R, V)
        before = after.detach() if before is None else before
        kl = config.kl_factor * (after.exp() * (after - before)).sum(dim=1)  # (R,)
        sizes = torch.stack([deltas[r].norm() for r in active])  # gradient at 0 is 0
        decay = config.weight_decay * sizes / norms[active] ** 2  # (R,)
        total = nll + kl + decay
        table = torch.stack([total, nll, kl, decay], dim=1).tolist()  # R x 4
        for place, r in enumerate(active):
            losses[r].append(Loss(*table[place]))
        going = [place for place in range(len(active)) if table[place][0] >= config.stop_loss]
        if not going or step == evaluations - 1:
            break
        moving = [deltas[active[place]] for place in going]
        optimiser.zero_grad()
        gradients = torch.autograd.grad(total[going].sum(), moving)
        for delta, gradient in zip(moving, gradients, strict=True):
            delta.grad = gradient
        optimiser.step()
        if config.clamp is not None:
            _clamp(moving, config.clamp * norms[[active[place] for place in going]])
        if len(going) < len(active):
            active = [active[place] for place in going]
            before = before[going]
            batch = batch.select(going)
    return [
        value_of(request, keys, outputs, delta.detach(), losses[r])
        for r, (request, (keys, outputs), delta) in enumerate(
            zip(requests, seen, deltas, strict=True)
        )
    ]


def evaluations_of(config: RomeConfig) -> int:
    """Most evaluations of the loss."""
    return config.steps + (config.step_is == "update")


def value_of(
    request: RequestRows, keys: Tensor, outputs: Tensor, delta: Tensor, losses: Sequence[Loss]
) -> Value:
    """What was found for a request.

    Args:
        request: Its rows.
        keys: Of each context row and each other one, (rows, D), float32.
        outputs: (rows, H), float32.
        delta: The offset, (H,).
        losses: Every evaluation.
    """
    averaged = list(request.keys)
    return Value(
        keys=keys[averaged],
        outputs=outputs[averaged],
        bare_key=keys[request.bare],
        v0=outputs[request.bare],
        delta=delta,
        losses=tuple(losses),
        tokens=max(1, len(request.contexts[0].labels)),
    )


def _seen(
    model: LanguageModel, batch: _Batch, requests: Sequence[RequestRows], layer: int
) -> list[tuple[Tensor, Tensor]]:
    """Keys and outputs of each request's context rows and other rows, (rows, D) and (rows, H)."""
    n = batch.rows_per_request
    keys = batch.keys.reshape(len(requests), n, -1)[:, :-1].float()  # (R, contexts, D)
    outputs = batch.outputs.reshape(len(requests), n, -1)[:, :-1].float()
    found = []
    for r, request in enumerate(requests):
        parts = [(keys[r], outputs[r])]
        if request.others:
            parts.append(at_the_edited_token(model, request.others, layer))
        found.append((torch.cat([k for k, _ in parts]), torch.cat([o for _, o in parts])))
    return found


def at_the_edited_token(
    model: LanguageModel, rows: Sequence[Row], layer: int
) -> tuple[Tensor, Tensor]:
    """Inputs and outputs of the edited module at the edited token of whole rows, in float32.

    Returns:
        (rows, D) and (rows, H).
    """
    ids = padded([row.ids for row in rows], model.device)  # (B, T)
    places = torch.tensor([row.position for row in rows], device=model.device)
    everywhere = torch.arange(len(rows), device=model.device)
    path = model.path(layer, "mlp_out")
    with torch.no_grad(), recording(model, [path], stop=True) as seen:
        forward(model, ids)
    keys = seen[path].inputs.reshape(*ids.shape, -1)[everywhere, places]
    outputs = seen[path].output.reshape(*ids.shape, -1)[everywhere, places]
    return keys.float(), outputs.float()


def _clamp(deltas: Sequence[Tensor], radii: Tensor) -> None:
    """Scale each offset back onto the ball of its radius, if it is outside."""
    with torch.no_grad():
        for delta, radius in zip(deltas, radii, strict=True):
            norm = delta.norm()
            if norm > radius:
                delta.mul_(radius / norm)


@dataclasses.dataclass(frozen=True)
class _Batch:
    """All rows of several requests, from the edited token on.

    Attributes:
        tail: The blocks above the edited layer.
        keys: Input of the edited module at the edited token, (B, D).
        outputs: Its output there, (B, H).
        rows_per_request: Context rows and the essence row.
        read: Of each read prediction, its row and its token within the row, 2 x (N,).
        labels: The token wanted there, (N,); -1 marks essence rows.
        request: The request it belongs to, (N,).
        weights: Its weight in the request's loss, (N,).
        shift: Added to each row's output besides the offset, (B, H); None: nothing.
    """

    model: LanguageModel
    tail: Tail
    keys: Tensor
    outputs: Tensor
    rows_per_request: int
    read: tuple[Tensor, Tensor]
    labels: Tensor
    request: Tensor
    weights: Tensor
    shift: Tensor | None = None

    @classmethod
    def record(
        cls,
        model: LanguageModel,
        requests: Sequence[RequestRows],
        layer: int,
        config: RomeConfig,
    ) -> _Batch:
        device = model.device
        rows = [row for request in requests for row in request.all]
        starts = torch.tensor([row.position for row in rows], device=device)  # (B,)
        path = model.path(layer, "mlp_out")
        with torch.no_grad():
            prefix = None
            if int(starts.max()) > 0:
                # A row that begins with the edited token has no prefix: one masked token.
                before = padded([row.ids[: max(row.position, 1)] for row in rows], device)
                prefix, _ = run_prefix(model, before, starts)
            ids = padded([row.ids[row.position :] for row in rows], device)  # (B, S)
            with recording(model, [path]) as seen:
                tail = Tail.record(model, prefix, ids, starts, start=layer + 1)
        seen_at = seen[path]
        keys = seen_at.inputs.reshape(*ids.shape, -1)[:, 0]  # (B, D)
        outputs = seen_at.output.reshape(*ids.shape, -1)[:, 0]  # (B, H)
        reads = [
            (b, row.read - row.position + j, label, b // len(requests[0].all), weight)
            for b, row in enumerate(rows)
            for j, label in enumerate(row.labels or (-1,))
            for weight in [_weight(row, len(requests[0].contexts), config)]
        ]
        columns = list(zip(*reads, strict=True))
        whole = [torch.tensor(column, device=device) for column in columns[:4]]
        return cls(
            model=model,
            tail=tail,
            keys=keys,
            outputs=outputs,
            rows_per_request=len(requests[0].all),
            read=(whole[0], whole[1]),
            labels=whole[2],
            request=whole[3],
            weights=torch.tensor(columns[4], device=device),
        )

    def evaluate(self, deltas: Tensor) -> tuple[Tensor, Tensor]:
        """Run the upper blocks with offsets added.

        Args:
            deltas: (R, H)

        Returns:
            The mean negative log likelihood of each target, (R,), and the log probabilities read
            in each essence row, (R, V).
        """
        offsets = deltas.repeat_interleave(self.rows_per_request, dim=0)  # (B, H)
        if self.shift is not None:
            offsets = offsets + self.shift
        hidden = self.tail.hidden.clone()  # (B, S, H)
        hidden[:, 0] = hidden[:, 0] + offsets.to(hidden.dtype)
        states = self.tail.run(hidden)[self.read]  # (N, H)
        log_p = torch.log_softmax(self.model.head(self.model.final_hidden(states)), dim=-1)
        target = self.labels >= 0
        nll = -log_p[target].gather(1, self.labels[target][:, None])[:, 0]  # (targets,)
        weighted = nll * self.weights[target]
        sums = torch.zeros(len(deltas), device=weighted.device)
        return sums.index_add(0, self.request[target], weighted), log_p[~target]

    def moved_to(self, values: Tensor) -> _Batch:
        """The same with every row's own output replaced by its request's value, (R, H)."""
        wanted = values.repeat_interleave(self.rows_per_request, dim=0)  # (B, H)
        return dataclasses.replace(self, shift=wanted - self.outputs.float())

    def select(self, requests: Sequence[int]) -> _Batch:
        """The same for some of the requests."""
        device = self.labels.device
        chosen = torch.tensor(requests, device=device)
        n = self.rows_per_request
        rows = (chosen[:, None] * n + torch.arange(n, device=device)).reshape(-1)  # (B',)
        place = torch.full((int(self.request.max()) + 1,), -1, device=device)
        place[chosen] = torch.arange(len(requests), device=device)
        kept = place[self.request] >= 0
        request = place[self.request[kept]]
        old_row, column = self.read[0][kept], self.read[1][kept]
        return dataclasses.replace(
            self,
            tail=self.tail.select(rows),
            read=(request * n + old_row % n, column),
            labels=self.labels[kept],
            request=request,
            weights=self.weights[kept],
            shift=None if self.shift is None else self.shift[rows],
        )


def _weight(row: Row, n_contexts: int, config: RomeConfig) -> float:
    """Weight of each of a row's tokens in the loss."""
    n_tokens = max(len(row.labels), 1) if config.target_loss == "token_mean" else 1
    return 1 / (n_contexts * n_tokens)
