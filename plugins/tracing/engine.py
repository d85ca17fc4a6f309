"""Causal tracing with reuse: what cannot have changed is not computed again.

The prompt left of the subject is run once. The clean run and the corrupted ones follow in one
batch, and their states, keys and values are kept. Restoring something at token t and layer l then
concerns the tokens from t on and the blocks above l alone; all sites of a token, for all samples of
the noise, go through a block together, each joining at the block above which it begins to differ.
The last block and the head are run at the answer's places only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from editkit.models import LanguageModel
from editkit.models.blocks import BlockPart, RecordedPass
from editkit.storage.machine import available_memory
from editkit_plugins.tracing.config import CausalTracingConfig, Kind
from editkit_plugins.tracing.questions import Question
from editkit_plugins.tracing.tracks import SEVERED, Track, families, in_portions

_MOST_MB = 512
_MOST_MB_CPU = 64  # the largest tensors are a quarter of it; from 32 MB on, none is used again
_VALUES_PER_TOKEN = 16  # of H values each: what a block holds of a token while it runs


@dataclasses.dataclass(frozen=True)
class Finding:
    """Probabilities of a fact's answer.

    Attributes:
        clean: In the clean run.
        corrupted: In the corrupted runs, averaged over samples.
        restored: By kind, where one site is restored, averaged over samples; (T, L) of the prompt.
    """

    clean: float
    corrupted: float
    restored: Mapping[Kind, Tensor]


def trace(
    model: LanguageModel,
    question: Question,
    noise: tuple[Tensor, Tensor],
    config: CausalTracingConfig,
    kinds: Sequence[Kind],
) -> Finding:
    """Trace one fact.

    Args:
        model: The model.
        question: The fact.
        noise: First and second draw of what corrupts the subject's tokens, each (N, tokens, H).
        config: Windows, memory, and what severed runs are corrupted with.
        kinds: What is restored.
    """
    with model.frozen(), torch.no_grad():
        return _Tracer(model, question, noise, config).run(kinds)


class _Tracer:
    def __init__(
        self,
        model: LanguageModel,
        question: Question,
        noise: tuple[Tensor, Tensor],
        config: CausalTracingConfig,
    ) -> None:
        self.model, self.question, self.config = model, question, config
        self.start = question.subject[0]
        self.n_answer = len(question.answer)
        self.samples = len(noise[0])
        self.ids = torch.tensor(question.ids, device=model.device)
        self.noise = noise
        self.answer = torch.tensor(question.answer, device=model.device)
        self.budget = _budget(model, config)

    def run(self, kinds: Sequence[Kind]) -> Finding:
        first = self._pass(self.noise[0])
        baseline = self._probability(first.states[-1][:, -self.n_answer :])  # (1 + N,)
        clean, corrupted = float(baseline[0]), float(baseline[1:].mean())
        shape = (len(self.question.prompt), self.model.n_layers)
        restored = {kind: torch.full(shape, corrupted) for kind in kinds}
        ordinary = [kind for kind in kinds if kind not in SEVERED]
        severed = [kind for kind in kinds if kind in SEVERED]
        if ordinary:
            self._fill(restored, ordinary, _Runs(first, first))
        if severed:
            same = self.config.severed_noise == "same"
            second = first if same else self._pass(self.noise[1])
            for kind in severed:
                # Left of the subject nothing differs but the noise.
                base = self._probability(second.states[-1][1:, -self.n_answer :])
                restored[kind].fill_(float(base.mean()))
            self._fill(restored, severed, _Runs(second, first))
        return Finding(clean, corrupted, restored)

    def _pass(self, noise: Tensor) -> RecordedPass:
        """The clean run, in row 0, and the corrupted ones, of the tokens from the subject on."""
        n_subject = noise.shape[1]

        def corrupt(embedded: Tensor) -> Tensor:  # (1 + N, S, H)
            embedded = embedded.clone()
            embedded[1:, :n_subject] += noise.to(embedded)
            return embedded

        rows = 1 + self.samples
        return RecordedPass.record(self.model, self.ids, self.start, rows, embed=corrupt)

    def _fill(self, restored: dict[Kind, Tensor], kinds: Sequence[Kind], runs: _Runs) -> None:
        """Trace every token that may differ, in portions that fit into memory."""
        grouped = [
            family for kind in kinds for family in families(kind, self.model.n_layers, self.config)
        ]
        n_tracks = sum(map(len, grouped))
        births = _Births(runs, grouped)
        for token in range(self.start, len(self.question.prompt)):
            skip = token - self.start
            length = len(self.ids) - token
            most = max(1, self.budget // (length * self._bytes_per_token()))  # rows
            samples = max(1, min(self.samples, most // n_tracks))
            samples = -(-self.samples // -(-self.samples // samples))  # batches of like size
            sums: dict[Track, float] = {}
            for portion in in_portions(grouped, max(1, most // samples)):
                for begin in range(0, self.samples, samples):
                    rows = slice(1 + begin, 1 + min(begin + samples, self.samples))
                    for track, total in self._tracks(portion, births, skip, rows).items():
                        sums[track] = sums.get(track, 0.0) + total
            for track, total in sums.items():
                restored[track.kind][token, list(track.layers)] = total / self.samples

    def _tracks(
        self, tracks: Sequence[Track], births: _Births, skip: int, rows: slice
    ) -> dict[Track, float]:
        """Sum over samples of the probability that each track ends with.

        Args:
            tracks: A parent before its branches.
            births: Where they begin.
            skip: Number of tokens from the subject's first up to the restored one.
            rows: The samples, as rows of the recorded passes.
        """
        n, top = rows.stop - rows.start, self.model.n_layers - 1
        base = births.runs.base
        # The last block is run where the answer is read. If that is not at the restored token,
        # nothing is given or begins there any more.
        apart = len(self.ids) - self.start - skip > self.n_answer
        going: list[Track] = []
        hidden: Tensor | None = None  # (tracks n, S', H), track by track
        for layer in range(-1, top + 1):
            last = apart and layer == top
            if hidden is not None:
                pins = {} if last else _pins(going, layer, skip, rows, births.runs)
                wanted = self.n_answer if last else None
                hidden = base.run(layer, hidden, skip=skip, rows=rows, replace=pins, only=wanted)
            begun = []
            new = [track for track in tracks if track.born == layer and not (last and track.alone)]
            for track in new:
                start = base.states[layer + 1][rows, skip:]
                if track.parent is not None and hidden is not None:
                    at = going.index(track.parent) * n
                    start = hidden[at : at + n]
                begun.append(start if last else births.of(track, start, skip, rows))
            if begun:
                hidden = torch.cat(begun if hidden is None else [hidden, *begun])
                going += new
        if hidden is None:
            return {}
        ending = [i for i, track in enumerate(going) if track.layers]
        states = hidden[:, -self.n_answer :].unflatten(0, (len(going), n))[ending]
        sums = self._probability(states.flatten(0, 1)).unflatten(0, (-1, n)).sum(dim=1)
        return dict(zip([going[i] for i in ending], sums.tolist(), strict=True))

    def _probability(self, states: Tensor) -> Tensor:
        """Probability of the answer, (R,), from states after the last block, (R, A, H)."""
        ids = self.answer.expand(len(states), -1)  # (R, A)
        log_p = self.model.log_probability(self.model.final_hidden(states), ids)  # (R, A)
        return log_p.sum(dim=-1).exp().double()

    def _bytes_per_token(self) -> int:
        return _VALUES_PER_TOKEN * self.model.hidden_size * self.model.dtype.itemsize


def _budget(model: LanguageModel, config: CausalTracingConfig) -> int:
    """Bytes that may be held at once."""
    if config.memory_mb is not None:
        return config.memory_mb * 2**20
    most = (_MOST_MB_CPU if model.device.type == "cpu" else _MOST_MB) * 2**20
    free = available_memory(str(model.device))
    return min(most, free // 4) if free else most


@dataclasses.dataclass(frozen=True)
class _Runs:
    """What tracks start from.

    Attributes:
        base: Row 0 clean, the others corrupted; tracks branch off these.
        frozen: Row 0 clean, the others corrupted; severed outputs are from these.
    """

    base: RecordedPass
    frozen: RecordedPass


class _Births:
    """The states that tracks begin with."""

    def __init__(self, runs: _Runs, grouped: Sequence[Sequence[Track]]) -> None:
        self.runs = runs
        base = runs.base
        samples = slice(1, base.states[0].shape[0])
        # A block whose attention gives clean outputs at all tokens: what it does at one token does
        # not depend on the others then, so this is every token restored alone.
        self.attention: dict[int, Tensor] = {}
        for track in (track for family in grouped for track in family):
            if track.restores == "attention_out" and track.born not in self.attention:
                clean = base.parts["attention_out"][track.born][:1]
                hooks: dict[BlockPart, Callable[[Tensor], Tensor]] = {
                    "attention_out": lambda output, clean=clean: clean.expand_as(output)
                }
                states = base.states[track.born][samples]
                self.attention[track.born] = base.run(
                    track.born, states, skip=0, rows=samples, replace=hooks
                )  # (N, S, H)

    def of(self, track: Track, start: Tensor, skip: int, rows: slice) -> Tensor:
        """The output of the block after which a track begins, from what it branches off.

        Args:
            track: The track.
            start: That block's output in the run that it branches off, (n, S', H).
            skip: Number of tokens from the subject's first up to the restored one.
            rows: The samples.
        """
        base, layer = self.runs.base, track.born
        start = start.clone()
        if track.restores_state:
            start[:, 0] = base.states[layer + 1][0, skip]
        elif track.restores == "mlp_out":
            added = base.parts["mlp_out"][layer]
            start[:, 0] += added[0, skip] - added[rows, skip]
        elif track.restores == "attention_out":
            own = slice(rows.start - 1, rows.stop - 1)
            start[:, 0] = self.attention[layer][own, skip]
        return start


def _pins(
    tracks: Sequence[Track], layer: int, skip: int, rows: slice, runs: _Runs
) -> dict[BlockPart, Callable[[Tensor], Tensor]]:
    """Puts the given outputs at the restored token of the tracks that have them at this block."""
    n = rows.stop - rows.start
    found: dict[BlockPart, Callable[[Tensor], Tensor]] = {}
    parts: tuple[BlockPart, ...] = ("attention_out", "mlp_out")
    for part in parts:
        given = [
            (i, track)
            for i, track in enumerate(tracks)
            if part in track.pinned and layer <= track.until
        ]
        if not given:
            continue
        clean, corrupted = runs.base.parts[part][layer][:1, skip], runs.frozen.parts[part][layer]
        values = torch.cat(
            [corrupted[rows, skip] if t.frozen else clean.expand(n, -1) for _, t in given]
        )  # (given tracks n, H)
        places = torch.tensor([i * n + j for i, _ in given for j in range(n)])

        def put(output: Tensor, places: Tensor = places, values: Tensor = values) -> Tensor:
            output = output.clone()
            output[places.to(output.device), 0] = values.to(output.device)
            return output

        found[part] = put
    return found
