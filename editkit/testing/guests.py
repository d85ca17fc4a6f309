"""What editors, locators and metrics have in common: they are guests in somebody's model."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any

import torch
from typing_extensions import override

from editkit.errors import EditkitError
from editkit.models.language_model import LanguageModel
from editkit.testing.contract import Contract, ContractError, few, require
from editkit.testing.failing import failures_inside
from editkit.testing.models import tiny_model
from editkit.testing.state import (
    Area,
    differences,
    disturb,
    kept_random_numbers,
    reseed,
    state_of,
)

UNICODE = ("Zoë Müller", "東京タワー", "🙂👩‍👩‍👧", "Nguye\u0302\u0303n Du", "Москва́", "ﷺ")


class ModelContract(Contract, abc.ABC):
    """Rules for everything that works on a model.

    Attributes:
        architectures: Models that it works on; most rules are tried on the first.
        tolerance: Largest relative difference between results that are the same but for rounding.
    """

    architectures: Sequence[str] = ("gpt2", "gpt_neox", "llama")
    tolerance: float = 1e-3

    def make_model(self, architecture: str | None = None, **changes: Any) -> LanguageModel:
        """A new model; arguments as for :func:`editkit.testing.tiny_model`."""
        return tiny_model(architecture or self.architectures[0], **changes)

    @override
    def n_layers(self) -> int:
        return self.make_model().n_layers

    @abc.abstractmethod
    def work(self, model: LanguageModel) -> Any:
        """Do what the plugin is for, newly made; results with like shapes can be compared."""

    @abc.abstractmethod
    def distance(self, first: Any, second: Any) -> float:
        """How far two results of :meth:`work` are apart, in units of the larger; 0 if equal."""

    # ------------------------------------------------------------ the model stays as it was

    def test_model_is_left_bit_identical(self) -> None:
        """The model's weights and buffers are left bit-identical.

        Work on copies, or put saved copies back; subtracting what was added does not restore.
        """
        self._require_unchanged("weights")

    def test_gradient_flags_are_restored(self) -> None:
        """requires_grad and .grad of every parameter are left as they were.

        Work inside `with model.frozen(), torch.enable_grad():`, and get gradients with
        torch.autograd.grad instead of backward().
        """
        self._require_unchanged("gradients")

    def test_mode_is_restored(self) -> None:
        """Every module is left in the mode it was in, training or evaluation.

        Work inside `with model.frozen():`, which puts the mode back.
        """
        self._require_unchanged("mode")

    def test_modules_and_hooks_are_restored(self) -> None:
        """No hook is left behind, and no module, parameter or method is replaced.

        Use the context managers of editkit.models.running, or remove hooks in a finally clause.
        """
        self._require_unchanged("modules")

    def test_random_numbers_are_left_alone(self) -> None:
        """The random numbers of Python, NumPy and torch are left where they were.

        Draw from a generator of your own: torch.Generator().manual_seed(self.config.seed). A model
        in training mode draws for its dropout: work inside `with model.frozen():`.
        """
        self._require_unchanged("random numbers")

    def test_surroundings_are_restored(self) -> None:
        """torch's switches, the model's config and the tokenizer are left as they were.

        Put back what is set, in a finally clause.
        """
        self._require_unchanged("surroundings")

    def test_errors_leave_nothing_behind(self) -> None:
        """All of that holds, too, when the model fails in the middle of the work.

        Put things back in a finally clause or a context manager.
        """
        model = self.make_model()
        disturb(model)

        def work() -> None:
            with self.fresh_cache():
                self.work(model)

        for failing in failures_inside(model, work):
            before = state_of(model)
            failing()
            changed = differences(before, state_of(model))
            require(not changed, f"after an error inside the model, {few(changed)} changed.")

    # ------------------------------------------------------------ same in, same out

    def test_same_seed_same_result(self) -> None:
        """The same configuration gives the same result, whatever the global random numbers are.

        Draw from a generator that is seeded from the configuration, and from nothing else.
        """
        results = []
        for seed in (1, 2):
            with self.fresh_cache(), kept_random_numbers():
                reseed(seed)
                results.append(self.work(self.make_model()))
        self._require_close(results[0], results[1], "done twice, newly made", tolerance=0.0)

    def test_gradient_mode_does_not_matter(self) -> None:
        """The result is the same where gradients are switched off around it.

        Work inside `with torch.enable_grad():` where gradients are needed.
        """
        model = self.make_model()
        usual = self.work(model)
        with torch.no_grad():
            without = self.work(model)
        self._require_close(usual, without, "with and without gradients around")

    def test_training_mode_does_not_matter(self) -> None:
        """The result is the same on a model in training mode with frozen parameters.

        Work inside `with model.frozen():`, and take gradients of tensors of your own.
        """
        model = self.make_model()
        usual = self.work(model)
        disturb(model)
        with kept_random_numbers():
            disturbed = self.work(model)
        self._require_close(usual, disturbed, "in evaluation and in training mode")

    def test_padding_side_does_not_matter(self) -> None:
        """The tokenizer's padding side does not matter.

        Read with model.read or model.encode, and pad with editkit.models.encoding.padded.
        """
        left, right = (self.work(self.make_model(padding_side=side)) for side in ("left", "right"))
        self._require_close(left, right, "padded on the left and on the right")

    def test_end_tokens_do_not_matter(self) -> None:
        """A tokenizer that appends an end token to every text gives the same result.

        Read prompts with model.read, requests with model.requested; they leave such tokens out.
        """
        usual, ended = (self.work(self.make_model(begin=True, end=end)) for end in (False, True))
        self._require_close(usual, ended, "with and without an end token")

    # ------------------------------------------------------------ helpers

    def _require_unchanged(self, area: Area) -> None:
        model = self.make_model()
        disturb(model)
        before = state_of(model)
        with kept_random_numbers():
            self.work(model)
            changed = differences(before, state_of(model), area)
        require(not changed, f"it changed {few(changed)}.")

    def _require_close(
        self, first: Any, second: Any, how: str, *, tolerance: float | None = None
    ) -> None:
        allowed = self.tolerance if tolerance is None else tolerance
        distance = self.distance(first, second)
        require(
            distance <= allowed,
            f"{how}, the results differ by {distance:.2g} of their size; {allowed:g} is allowed.",
        )

    def _done_or_refused(self, model: LanguageModel, work: Callable[[], object], what: str) -> None:
        """Work that may end in an :class:`EditkitError`, but in no other error."""
        before = state_of(model)
        try:
            work()
        except EditkitError:
            pass
        except ContractError:
            raise
        except Exception as error:
            raise ContractError(
                f"{what} ends in {type(error).__name__}: {error}; expected an EditkitError."
            ) from error
        changed = differences(before, state_of(model))
        require(not changed, f"after {what}, {few(changed)} changed.")
