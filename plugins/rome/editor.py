"""The editor ``rome``: a key, a new value, and the rank-one update that maps one to the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from editkit import ConfigError, Editor, EditRequest, LowRank, Needs, WeightDelta
from editkit.covariance.corpora import Corpus
from editkit.covariance.second_moment import SecondMoment, Whitening, read_published, second_moment
from editkit.models import LanguageModel, ModelShape
from editkit.models.encoding import chunks_by_tokens
from editkit_plugins.rome.config import RomeConfig
from editkit_plugins.rome.contexts import contexts
from editkit_plugins.rome.needs import rome_needs
from editkit_plugins.rome.plain import find_value_plainly
from editkit_plugins.rome.rows import RequestRows, request_rows
from editkit_plugins.rome.value import Value, find_values
from editkit_plugins.rome.verdict import verdict


@dataclasses.dataclass(frozen=True)
class Solution:
    """One edit in the paper's terms.

    Attributes:
        value: Keys, outputs, and the optimised offset.
        u: Direction of the update in key space, of unit norm, (D,).
        v_star: The new value, (H,).
        right: The update is ``outer(u, right)``, (H,).
        divisor: The bare (or mean) key along u.
    """

    value: Value
    u: Tensor
    v_star: Tensor
    right: Tensor
    divisor: float


class RomeEditor(Editor[RomeConfig]):
    """Rank-one model editing (Meng et al. 2022, section 3.1)."""

    def __init__(self, config: RomeConfig) -> None:
        super().__init__(config)
        self._inverse: tuple[str, Whitening | None] | None = None

    def layer(self, model: LanguageModel) -> int:
        """The block that is edited: the config's, or a third of the model's depth."""
        layer = model.n_layers // 3 if self.config.layer is None else self.config.layer
        model.check_layer(layer)
        return layer

    def check(self, model: LanguageModel) -> None:
        """Refuse a layer that the model does not have, and a second moment of no corpus.

        Raises:
            ModelError: There is no such layer.
            ConfigError: A second moment is wanted, but no corpus and no file was named.
        """
        self.layer(model)
        if self.config.second_moment and self.config.second_moment_file is None:
            self._corpus()

    def prepare(self, model: LanguageModel) -> None:
        """Sample the contexts and get the second moment, both cached.

        Raises:
            ConfigError: A second moment is wanted, but no corpus and no file was named; or it is
                singular and no ridge was set.
        """
        contexts(model, self.config)
        self._whitening(model)

    def needs(self, shape: ModelShape, *, requests: int, tokens: int) -> Needs:
        """Memory for the second moment, its factor and activations."""
        return rome_needs(self.config, shape, requests=requests, tokens=tokens)

    def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        """One rank-one delta per request.

        Raises:
            RequestError: A subject has no token of its own.
            ModelError: A prompt is longer than the model's context.
        """
        name = f"{model.path(self.layer(model), 'mlp_out')}.weight"
        weight = model.hf.get_parameter(name)
        typical = float(weight.detach().float().norm())
        deltas, fingerprint = [], model.fingerprint
        for request, solution in zip(requests, self.solve(model, requests), strict=True):
            change = LowRank(solution.u[:, None], solution.right[None])  # (D, 1), (1, H)
            layer = self.layer(model)
            unstable = self._stability(solution, typical, layer)
            notes = {**unstable, **verdict(solution.value, self.config, layer)}
            if unstable and not notes["converged"]:
                notes["advice"] = f"{notes['advice']}; and {unstable['advice']}"
            deltas.append(
                WeightDelta(
                    changes={name: change},
                    request=request,
                    editor="rome",
                    config=self.config.model_dump(mode="json"),
                    model_fingerprint=fingerprint,
                    notes=notes,
                )
            )
        return deltas

    def solve(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[Solution]:
        """Keys, values and updates in the paper's terms; what :meth:`edit` makes deltas of."""
        if not requests:
            return []
        layer = self.layer(model)
        before = contexts(model, self.config)
        whitening = self._whitening(model)
        rows = [request_rows(model, request, before, self.config) for request in requests]
        with model.frozen(), torch.enable_grad():
            values: dict[int, Value] = {}
            for group in self._groups(model, rows, layer):
                found = self._values(model, [rows[i] for i in group], layer)
                values.update(zip(group, found, strict=True))
        return [self._solution(values[i], whitening) for i in range(len(rows))]

    def _values(self, model: LanguageModel, rows: Sequence[RequestRows], layer: int) -> list[Value]:
        if self.config.plain:
            return [find_value_plainly(model, each, layer, self.config) for each in rows]
        return find_values(model, rows, layer, self.config)

    def _groups(
        self, model: LanguageModel, rows: Sequence[RequestRows], layer: int
    ) -> list[list[int]]:
        """Requests that are optimised together: of similar length, as many as memory allows."""
        lengths = [max(len(row.ids) - row.position for row in each.all) for each in rows]
        bytes_per_token = 4 * 40 * model.hidden_size * (model.n_layers - layer)
        budget = self.config.memory_mb * 2**20 // bytes_per_token
        return chunks_by_tokens(lengths, budget, rows=len(rows[0].all))

    def _solution(self, value: Value, whitening: Whitening | None) -> Solution:
        """The rank-one update of Meng et al. 2022, equation 2.

        With ``update_key`` mean it is the equation to the letter: the edited matrix maps k* to v*.
        """
        mean = value.keys.mean(dim=0)  # (D,)
        u = mean if whitening is None else whitening.solve(mean)
        u = u / u.norm()
        v_star = value.v0 + value.delta
        if self.config.update_key == "bare":
            key, output = value.bare_key, value.v0
        else:
            key, output = mean, value.outputs.mean(dim=0)  # W is linear: the output of the mean
        divisor = key @ u
        right = (v_star - output) / divisor
        return Solution(value, u, v_star, right, float(divisor))

    def _stability(self, solution: Solution, typical: float, layer: int) -> dict[str, str]:
        norm = float(solution.right.norm())
        length = float(solution.value.bare_key.norm())
        if abs(solution.divisor) < 1e-3 * length:
            reason = f"the key is nearly orthogonal to u ({solution.divisor:.2g})"
        elif norm > self.config.unstable_norm * typical:
            reason = f"the update's norm is {norm:.3g}, the weight's {typical:.3g}"
        else:
            return {}
        advice = f"raise ridge ({self.config.ridge:g}), or edit another layer than {layer}"
        return {"unstable": reason, "advice": advice}

    def _whitening(self, model: LanguageModel) -> Whitening | None:
        """C, factorised once for a model."""
        fingerprint = model.fingerprint
        if self._inverse is None or self._inverse[0] != fingerprint:
            whitening = None
            if self.config.second_moment:
                path = model.path(self.layer(model), "mlp_out")
                whitening = Whitening.of(self._statistic(model, path), self.config.ridge)
            self._inverse = (fingerprint, whitening)
        return self._inverse[1]

    def _statistic(self, model: LanguageModel, path: str) -> SecondMoment:
        if self.config.second_moment_file is not None:
            return read_published(self.config.second_moment_file)
        return second_moment(
            model,
            path,
            self._corpus(),
            tokens=self.config.corpus_tokens,
            row_tokens=self.config.corpus_row_tokens,
        )

    def _corpus(self) -> Corpus:
        if self.config.corpus is None:
            raise ConfigError(
                "rome needs a corpus for the second moment of its keys, and none is named.",
                hint="Set editors.rome.corpus (or second_moment_file), or second_moment: false.",
            )
        return Corpus(self.config.corpus, self.config.corpus_order, self.config.corpus_seed)
