"""Causal tracing: which hidden states make a model recall a fact (Meng et al. 2022, section 2).

The prompt has tokens i = 1..T, the subject is tokens a..b, and the answer is o. The layers are
l = 0..L-1 here, as in appendix B, and 1..L in equation 1. ``TokenizedFact`` holds the tokens.

Equation 1, the residual stream of a transformer; a is attention, m is the MLP:

    h_i^(l) = h_i^(l-1) + a_i^(l) + m_i^(l)

Section 2.1, three runs of the model. P, P* and P*,h are the probabilities of o in each:

    clean run       as it is: P[o]
    corrupted run   h*_i^(0) = h_i^(0) + eps for i in [a, b], eps ~ N(0; nu^2): P*[o]
    restored run    corrupted, then h_i^(l) is set back to its value in the clean run: P*,h[o]

    total effect            TE = P[o] - P*[o]
    indirect effect         IE(i, l) = P*,h[o] - P*[o]
    average over facts      ATE, AIE

P* and P*,h are averaged over N draws of eps. The kinds of restored run:

    state    one hidden state h_i^(l)                                                  section 2.1
    mlp      the MLP outputs m_i^(k) of a window of layers k around l, [l - 4, l + 5]
             in the paper's text, [l - 5, l + 4] in its code                          appendix B.1
    attn     the same for the attention outputs a_i^(k)
    severed  h_i^(l), while m_i^(k), a_i^(k) or both stay corrupted in every layer k:
             the path-specific effect that avoids these modules                        section 2.2

Where each is computed:

    eps, nu               corruption.py
    P and P*              _Tracer.probabilities, from the pass that _Tracer._record_pass runs
    windows               window_of, in restored_runs.py
    the runs of a kind    plan_runs, there
    other subjects        substitution.py, and _Substituting
    P*,h                  _Tracer._run_patched: _patched and _overwrites restore the states
    IE                    CausalTracingLocator
    TE                    stored_traces.py
    ATE, AIE              averages.py

Done literally, this is one forward pass for each kind, token, layer and draw of eps. Three facts
save nearly all of that, and change no number beyond rounding:

1. Tokens left of the subject are the same in every run: they are run once, and later tokens read
   their keys and values.
2. A run that restores token i equals the corrupted run left of i, and up to the first restored
   layer. It starts there, from the recorded states of the corrupted run (``RecordedPass``). Runs
   that are equal up to some layer share it: one branches off the other (``PatchedRun.parent``).
3. All runs that restore the same token go through a block together as one batch. The last block and
   the output head run at the answer's positions only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from editkit import Fact, Localization, Locator
from editkit.models import LanguageModel
from editkit.models.blocks import BlockPart, RecordedPass
from editkit.storage.machine import available_memory
from editkit_plugins.tracing.config import CausalTracingConfig, Kind
from editkit_plugins.tracing.corruption import draw_noise, embed, noise_level, read_subjects
from editkit_plugins.tracing.restored_runs import (
    SEVERED,
    WINDOWS,
    PatchedRun,
    pack_groups,
    plan_runs,
    window_size,
)
from editkit_plugins.tracing.substitution import Substitute, choose_substitutes, counterparts
from editkit_plugins.tracing.tokenized_facts import TokenizedFact, tokenize_facts

Hook = Callable[[Tensor], Tensor]
"""Gives a module's new output from its output, (runs * n, tokens from i on, H)."""

_MAX_MB = 512
_MAX_MB_CPU = 64  # the largest tensor is a quarter of it; from 32 MB on, malloc never reuses memory
_VALUES_PER_TOKEN = 16  # in units of H: what a block holds per token while it runs


class CausalTracingLocator(Locator[CausalTracingConfig]):
    """The indirect effect of every site: IE(i, l) = P*,h[o] - P*[o] (section 2.1)."""

    def locate(self, model: LanguageModel, facts: Sequence[Fact]) -> list[Localization]:
        """Trace facts with the configured ``kind`` of restored run.

        Returns:
            One localization per fact. Scores are indirect effects, (T, L); 0 left of the subject,
            where no state is corrupted. Baselines: ``clean`` (P), ``corrupted`` (P*), and
            ``predicted``, 1 if the model predicts the answer, else 0.

        Raises:
            RequestError: A prompt contains its subject twice.
            ModelError: A prompt is longer than the model's context.
            ConfigError: No substitute has as many tokens as a subject, or fits into its prompt.
        """
        return [localization for [localization] in self._trace(model, facts, (self.config.kind,))]

    def maps(self, model: LanguageModel, facts: Sequence[Fact]) -> list[tuple[Localization, ...]]:
        """Trace facts with every kind in ``kinds``, in that order; raises as ``locate`` does."""
        return self._trace(model, facts, self.config.kinds)

    def for_facts(self, model: LanguageModel, facts: Sequence[Fact]) -> CausalTracingLocator:
        """This locator with noise level and substitutes taken from the subjects of all facts.

        Its window is the number of layers that it has in this model.
        """
        window = window_size(model.n_layers, self.config)
        config = self.config.model_copy(update={"window": window})
        subjects = tuple(dict.fromkeys(fact.subject for fact in facts))
        if config.corruption == "substitute" and not config.substitutes:
            config = config.model_copy(update={"substitutes": subjects})
        if config.corruption in ("gaussian", "uniform") and config.noise_level is None:
            level = noise_level(model, config, read_subjects(config) or subjects)
            config = config.model_copy(update={"noise_level": level})
        return CausalTracingLocator(config)

    def _trace(
        self, model: LanguageModel, facts: Sequence[Fact], kinds: Sequence[Kind]
    ) -> list[tuple[Localization, ...]]:
        subjects = read_subjects(self.config)
        traces = []
        for tokenized in tokenize_facts(model, facts, answer_tokens=self.config.answer_tokens):
            others: Sequence[Substitute] = ()
            if self.config.corruption == "substitute":
                others = choose_substitutes(model, tokenized, self.config)
            if self.config.substitute_length == "any" and others:
                p = trace_substituted(model, tokenized, others, self.config, kinds)
            else:
                level = noise_level(model, self.config, subjects or (tokenized.fact.subject,))
                noise = draw_noise(model, tokenized, self.config, level)
                p = trace_fact(model, tokenized, noise, self.config, kinds)
            traces.append(
                tuple(self._localization(model, tokenized, others, p, kind) for kind in kinds)
            )
        return traces

    def _localization(
        self,
        model: LanguageModel,
        fact: TokenizedFact,
        others: Sequence[Substitute],
        p: Probabilities,
        kind: Kind,
    ) -> Localization:
        effects = p.restored[kind].double() - p.corrupted  # IE, (T, L)
        effects[: fact.subject[0]] = 0.0
        baselines = {"clean": p.clean, "corrupted": p.corrupted}
        window = window_size(model.n_layers, self.config) if kind in WINDOWS else None
        return dataclasses.replace(
            fact.localization(model, kind, effects, baselines),
            window=window,
            replacements=tuple(each.name for each in others),
            counterparts=counterparts(fact, others) if others else (),
        )


# ---------------------------------------------------------------- clean, corrupted, restored runs


@dataclasses.dataclass(frozen=True)
class Probabilities:
    """Probability of a fact's answer o in each run.

    Attributes:
        clean: P[o].
        corrupted: P*[o], averaged over draws of the noise.
        restored: P*,h[o] by kind of restored run, averaged over draws; (T, L), T of the prompt.
    """

    clean: float
    corrupted: float
    restored: Mapping[Kind, Tensor]


def trace_fact(
    model: LanguageModel,
    fact: TokenizedFact,
    noise: tuple[Tensor, Tensor],
    config: CausalTracingConfig,
    kinds: Sequence[Kind],
) -> Probabilities:
    """Run a fact clean, corrupted, and restored at every token and layer.

    Args:
        model: The model.
        fact: The fact.
        noise: Two independent draws of eps, each (N, b - a + 1, H). The first corrupts the subject.
            If ``config.severed_noise`` is ``second_draw``, severed runs use the second one.
        config: Windows, memory limit, and noise of severed runs.
        kinds: What to restore.
    """
    with model.frozen(), torch.no_grad():
        return _Tracer(model, fact, noise, config).probabilities(kinds)


def trace_substituted(
    model: LanguageModel,
    fact: TokenizedFact,
    others: Sequence[Substitute],
    config: CausalTracingConfig,
    kinds: Sequence[Kind],
) -> Probabilities:
    """As :func:`trace_fact`, with other subjects of any length instead of noise.

    Each substitute is one draw. At a token without a counterpart in some of them, ``restored`` is
    P* plus the mean effect over the others; without any counterpart, it is P*.
    """
    first, end = fact.subject
    shape = (len(fact.prompt), model.n_layers)
    effects = {kind: torch.zeros(shape, dtype=torch.float64) for kind in kinds}
    draws = torch.zeros(shape[0], 1, dtype=torch.float64)  # with a counterpart, by token
    clean = corrupted = 0.0
    by_length: dict[int, list[Substitute]] = {}
    for other in others:
        by_length.setdefault(len(other.subject), []).append(other)
    for n_tokens, group in by_length.items():
        n, shift = len(group), n_tokens - (end - first)
        with model.frozen(), torch.no_grad():
            p = _Substituting(model, fact, group, config).probabilities(kinds)
        clean, corrupted = p.clean, corrupted + n * p.corrupted / len(others)
        traced = slice(max(first, first - shift), shape[0])  # tokens with a counterpart
        draws[traced] += n
        for kind in kinds:
            own = p.restored[kind][traced.start + shift :].double()
            effects[kind][traced] += n * (own - p.corrupted)
    restored = {kind: corrupted + effects[kind] / draws.clamp(min=1) for kind in kinds}
    return Probabilities(clean, corrupted, restored)


@dataclasses.dataclass(frozen=True)
class _Baseline:
    """The recorded passes that restored runs start from and take their values from.

    In both passes row 0 is the clean run, and rows 1..N are the corrupted ones. The tokens are
    those from the subject's first one on: S of them.

    Attributes:
        corrupted: Restored runs start from these states.
        severed: Severed modules keep these outputs.
        attention_restored: By layer: the block's output in the corrupted runs with all attention
            outputs clean, (N, S, H). Tokens mix in attention only, so this is also the output at
            token i of a run that restores token i alone.
    """

    corrupted: RecordedPass
    severed: RecordedPass
    attention_restored: Mapping[int, Tensor]


class _Tracer:
    def __init__(
        self,
        model: LanguageModel,
        fact: TokenizedFact,
        noise: tuple[Tensor, Tensor],
        config: CausalTracingConfig,
    ) -> None:
        self.model, self.fact, self.config, self.noise = model, fact, config, noise
        self.subject_start = fact.subject[0]  # a
        self.first_restored = self.subject_start
        self.n_draws = len(noise[0])  # N
        self.n_answer = len(fact.answer)  # A
        self.ids = torch.tensor(fact.ids, device=model.device)  # (T + A - 1,)
        self.answer = torch.tensor(fact.answer, device=model.device)  # (A,)
        self.max_bytes = _memory_limit(model, config)

    def probabilities(self, kinds: Sequence[Kind]) -> Probabilities:
        first_pass = self._record_pass(self.noise[0])
        p = self._answer_probability(first_pass.states[-1][:, -self.n_answer :])  # (1 + N,)
        clean, corrupted = float(p[0]), float(p[1:].mean())
        # Left of the subject nothing is corrupted, and there is nothing to restore.
        shape = (len(self.fact.prompt), self.model.n_layers)
        restored = {kind: torch.full(shape, corrupted) for kind in kinds}
        if ordinary := [kind for kind in kinds if kind not in SEVERED]:
            self._restore(restored, ordinary, first_pass, severed=first_pass)
        if severed := [kind for kind in kinds if kind in SEVERED]:
            second_pass = first_pass
            if self.config.severed_noise == "second_draw":
                second_pass = self._record_pass(self.noise[1])
            for kind in severed:
                p = self._answer_probability(second_pass.states[-1][1:, -self.n_answer :])  # (N,)
                restored[kind].fill_(float(p.mean()))
            self._restore(restored, severed, second_pass, severed=first_pass)
        return Probabilities(clean, corrupted, restored)

    def _record_pass(self, noise: Tensor) -> RecordedPass:
        """Run the clean row and the N corrupted rows: h*_i^(0) = h_i^(0) + eps, i in [a, b]."""
        n_subject = noise.shape[1]

        def corrupt(embedded: Tensor) -> Tensor:  # (1 + N, S, H), S tokens from the subject on
            embedded = embedded.clone()
            embedded[1:, :n_subject] += noise.to(embedded)
            return embedded

        rows = 1 + self.n_draws
        return RecordedPass.record(self.model, self.ids, self.subject_start, rows, embed=corrupt)

    def _answer_probability(self, states: Tensor) -> Tensor:
        """P[o], (R,), from the last block's output at the answer's positions, (R, A, H)."""
        ids = self.answer.expand(len(states), -1)  # (R, A)
        log_p = self.model.log_probability(self.model.final_hidden(states), ids)  # (R, A)
        return log_p.sum(dim=-1).exp().double()

    def _restore(
        self,
        restored: dict[Kind, Tensor],
        kinds: Sequence[Kind],
        corrupted: RecordedPass,
        severed: RecordedPass,
    ) -> None:
        """Fill in P*,h[o] for every token from the subject on, in batches that fit into memory."""
        groups = [
            group for kind in kinds for group in plan_runs(kind, self.model.n_layers, self.config)
        ]
        n_runs = sum(map(len, groups))
        attention = self._restore_attention(corrupted, [run for group in groups for run in group])
        baseline = _Baseline(corrupted, severed, attention)
        bytes_per_token = _VALUES_PER_TOKEN * self.model.hidden_size * self.model.dtype.itemsize
        for token in range(self.first_restored, len(self.fact.prompt)):
            n_tokens = len(self.ids) - token
            max_rows = max(1, self.max_bytes // (n_tokens * bytes_per_token))
            draws = max(1, min(self.n_draws, max_rows // n_runs))
            draws = -(-self.n_draws // -(-self.n_draws // draws))  # batches of similar size
            sums: dict[PatchedRun, float] = {}
            for batch in pack_groups(groups, max(1, max_rows // draws)):
                for first in range(0, self.n_draws, draws):
                    rows = slice(1 + first, 1 + min(first + draws, self.n_draws))
                    for run, p in self._run_patched(batch, baseline, token, rows).items():
                        sums[run] = sums.get(run, 0.0) + p
            for run, p in sums.items():
                restored[run.kind][token, list(run.layers)] = p / self.n_draws

    def _restore_attention(
        self, corrupted: RecordedPass, runs: Sequence[PatchedRun]
    ) -> dict[int, Tensor]:
        """``_Baseline.attention_restored`` for the layers where a run restores attention first."""
        outputs: dict[int, Tensor] = {}
        rows = slice(1, 1 + self.n_draws)
        for layer in dict.fromkeys(run.start for run in runs if run.restores == "attention_out"):
            clean = corrupted.parts["attention_out"][layer][:1]  # (1, S, H)
            hooks: dict[BlockPart, Hook] = {"attention_out": clean.expand_as}
            states = corrupted.states[layer][rows]
            outputs[layer] = corrupted.run(layer, states, skip=0, rows=rows, replace=hooks)
        return outputs

    def _run_patched(
        self, runs: Sequence[PatchedRun], baseline: _Baseline, token: int, rows: slice
    ) -> dict[PatchedRun, float]:
        """P*,h[o] of runs that restore one token, summed over draws of the noise.

        Args:
            runs: The runs, each after its parent.
            baseline: What they start from.
            token: The restored token i.
            rows: The draws, as rows of the recorded passes; n of them.
        """
        n, last_layer = rows.stop - rows.start, self.model.n_layers - 1
        corrupted = baseline.corrupted
        skip = token - self.subject_start  # recorded tokens left of i
        # The last block runs at the answer's positions only. If i is not one of them, the answer no
        # longer depends on what is restored there.
        beyond_token = len(self.ids) - token > self.n_answer
        active: list[PatchedRun] = []
        hidden: Tensor | None = None  # (active runs * n, tokens from i on, H), run by run
        for layer in range(-1, last_layer + 1):
            answer_only = beyond_token and layer == last_layer
            if hidden is not None:
                hooks = {} if answer_only else _overwrites(active, layer, baseline, skip, rows)
                only = self.n_answer if answer_only else None
                hidden = corrupted.run(
                    layer, hidden, skip=skip, rows=rows, replace=hooks, only=only
                )
            starting = [
                run
                for run in runs
                if run.start == layer and not (answer_only and run.parent is None)
            ]
            started = []
            for run in starting:
                states = corrupted.states[layer + 1][rows, skip:]  # (n, tokens from i on, H)
                if run.parent is not None and hidden is not None:
                    first = active.index(run.parent) * n
                    states = hidden[first : first + n]
                started.append(
                    states if answer_only else _patched(states, run, baseline, skip, rows)
                )
            if started:
                hidden = torch.cat(started if hidden is None else [hidden, *started])
                active += starting
        if hidden is None:
            return {}
        results = [i for i, run in enumerate(active) if run.layers]
        at_answer = hidden[:, -self.n_answer :]  # (active runs * n, A, H)
        by_run = at_answer.reshape(len(active), n, *at_answer.shape[1:])[results]
        p = self._answer_probability(by_run.flatten(0, 1)).reshape(-1, n)  # (results, n)
        return dict(zip([active[i] for i in results], p.sum(dim=1).tolist(), strict=True))


class _Substituting(_Tracer):
    """Runs on other subjects of one length; clean values come from the run on the fact's own.

    Row 0 of the recorded passes holds the clean run, aligned from the right: shifted by the
    difference in length, less its first tokens if the fact's subject is longer.
    """

    def __init__(
        self,
        model: LanguageModel,
        fact: TokenizedFact,
        group: Sequence[Substitute],
        config: CausalTracingConfig,
    ) -> None:
        ids = torch.tensor([each.subject for each in group], device=model.device)  # (N, tokens)
        embedded = embed(model, ids)
        super().__init__(model, group[0].prompt, (embedded, embedded), config)
        own = fact.subject[1] - fact.subject[0]
        self.first_restored += max(0, ids.shape[1] - own)
        own_ids = torch.tensor(fact.ids, device=model.device)
        self.clean = RecordedPass.record(model, own_ids, self.subject_start, rows=1)

    def _record_pass(self, noise: Tensor) -> RecordedPass:
        """Run the substitutes, whose embeddings are ``noise``, below a row for the clean run."""

        def substitute(embedded: Tensor) -> Tensor:  # (1 + N, S, H), S tokens from the subject on
            embedded = embedded.clone()
            embedded[1:, : noise.shape[1]] = noise.to(embedded)
            return embedded

        rows = 1 + self.n_draws
        run = RecordedPass.record(self.model, self.ids, self.subject_start, rows, embed=substitute)
        states = tuple(map(_with_clean_row, run.states, self.clean.states))
        parts = {
            part: tuple(map(_with_clean_row, outputs, self.clean.parts[part]))
            for part, outputs in run.parts.items()
        }
        return dataclasses.replace(run, states=states, parts=parts)


def _with_clean_row(run: Tensor, clean: Tensor) -> Tensor:
    """States (1 + N, S, H) with the last tokens of the clean run (1, S', H) in row 0."""
    run = run.clone()
    length = min(run.shape[1], clean.shape[1])
    run[0, -length:] = clean[0, -length:]
    return run


def _memory_limit(model: LanguageModel, config: CausalTracingConfig) -> int:
    """Bytes of activations to hold at once."""
    if config.memory_mb is not None:
        return config.memory_mb * 2**20
    limit = (_MAX_MB_CPU if model.device.type == "cpu" else _MAX_MB) * 2**20
    free = available_memory(str(model.device))
    return min(limit, free // 4) if free else limit


# ---------------------------------------------------------------- what a run restores


def _patched(
    states: Tensor, run: PatchedRun, baseline: _Baseline, skip: int, rows: slice
) -> Tensor:
    """The output of block ``run.start`` with token i restored.

    Args:
        states: That output in the run that this one starts from, (n, tokens from i on, H).
        run: The run.
        baseline: Where clean values come from.
        skip: Number of recorded tokens left of i.
        rows: The draws; n of them.
    """
    layer, corrupted = run.start, baseline.corrupted
    states = states.clone()
    if run.restores == "state":  # h_i^(l)
        states[:, 0] = corrupted.states[layer + 1][0, skip]
    elif run.restores == "mlp_out":  # the MLP is the last to add to the stream: swap its m_i^(l)
        outputs = corrupted.parts["mlp_out"][layer]
        change = outputs[0, skip] - outputs[rows, skip]  # (n, H)
        states[:, 0] += corrupted.model.architecture.residual_scale * change
    elif run.restores == "attention_out":  # the block's MLP reads a_i^(l)
        draws = slice(rows.start - 1, rows.stop - 1)
        states[:, 0] = baseline.attention_restored[layer][draws, skip]
    return states


def _overwrites(
    runs: Sequence[PatchedRun], layer: int, baseline: _Baseline, skip: int, rows: slice
) -> dict[BlockPart, Hook]:
    """Hooks that overwrite the outputs of a block's modules at token i; arguments as above."""
    n = rows.stop - rows.start
    hooks: dict[BlockPart, Hook] = {}
    parts: tuple[BlockPart, ...] = ("attention_out", "mlp_out")
    for part in parts:
        overwritten = [
            (i, run) for i, run in enumerate(runs) if part in run.overwrites and layer <= run.end
        ]
        if not overwritten:
            continue
        clean = baseline.corrupted.parts[part][layer][:1, skip]  # (1, H)
        severed = baseline.severed.parts[part][layer][rows, skip]  # (n, H)
        values = torch.cat(
            [severed if run.severed else clean.expand(n, -1) for _, run in overwritten]
        )  # (overwritten runs * n, H)
        places = torch.tensor([i * n + row for i, _ in overwritten for row in range(n)])

        def overwrite(output: Tensor, places: Tensor = places, values: Tensor = values) -> Tensor:
            output = output.clone()  # (runs * n, tokens from i on, H)
            output[places.to(output.device), 0] = values.to(output.device)
            return output

        hooks[part] = overwrite
    return hooks
