"""The rules that everything keeps that works on a model: editors, locators and metrics."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from typing_extensions import override

from editkit.errors import EditkitError, first_line
from editkit.models.language_model import LanguageModel
from editkit.registry.random_state import preserved_random_state, seed_generators
from editkit.testing.contract import Contract, ContractError, few, require
from editkit.testing.models import tiny_model
from editkit.testing.state import (
    Area,
    differences,
    disturb,
    state_of,
)

UNICODE = ("Zoë Müller", "東京タワー", "🙂👩‍👩‍👧", "Nguye\u0302\u0303n Du", "Москва́", "ﷺ")


class ModelContract(Contract, abc.ABC):
    """The rules for everything that works on a model.

    Attributes:
        architectures: Architectures to test on; most rules use only the first.
        tolerance: Largest relative difference that rounding may cause.
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
        """Build the plugin and let it do its work; :meth:`distance` compares two results."""

    @abc.abstractmethod
    def distance(self, first: Any, second: Any) -> float:
        """The difference of two results of :meth:`work`, relative to the larger one."""

    # ------------------------------------------------------------ the model is unchanged

    def test_model_is_left_bit_identical(self) -> None:
        """The model's weights and buffers stay bit-identical.

        Work on copies, or restore saved copies; subtracting what was added does not restore
        the bits.
        """
        self._require_unchanged("weights")

    def test_gradient_flags_are_restored(self) -> None:
        """requires_grad and .grad of every parameter are unchanged.

        Work inside `with model.frozen(), torch.enable_grad():`, and compute gradients with
        torch.autograd.grad instead of backward().
        """
        self._require_unchanged("gradients")

    def test_mode_is_restored(self) -> None:
        """Every module stays in its mode, training or evaluation.

        Work inside `with model.frozen():`, which restores the mode.
        """
        self._require_unchanged("mode")

    def test_modules_and_hooks_are_restored(self) -> None:
        """No hook is left behind, and no module, parameter or method is replaced.

        Use the context managers of editkit.models.running, or remove hooks in a finally
        clause.
        """
        self._require_unchanged("modules")

    def test_random_numbers_are_left_alone(self) -> None:
        """The random states of Python, NumPy and torch are unchanged.

        Use your own generator: torch.Generator().manual_seed(self.config.seed). Dropout in
        a model in training mode draws random numbers, too: work inside `with
        model.frozen():`.
        """
        self._require_unchanged("random numbers")

    def test_surroundings_are_restored(self) -> None:
        """torch's global settings, the model's config and the tokenizer are unchanged.

        Restore whatever you set, in a finally clause.
        """
        self._require_unchanged("surroundings")

    def test_errors_leave_nothing_behind(self) -> None:
        """All of this also holds if the model raises an error in the middle of the work.

        Restore everything in a finally clause or a context manager.
        """
        model = self.make_model()
        disturb(model)

        def work() -> None:
            with self.fresh_cache():
                self.work(model)

        for failing in _failures_inside(model, work):
            before = state_of(model)
            failing()
            changed = differences(before, state_of(model))
            require(not changed, f"after an error inside the model, {few(changed)} changed.")

    # ------------------------------------------------------------ reproducible results

    def test_same_seed_same_result(self) -> None:
        """The same configuration gives the same result, whatever the global random state.

        Use a generator seeded from the configuration, and no other source of randomness.
        """
        results = []
        for seed in (1, 2):
            with self.fresh_cache(), preserved_random_state():
                seed_generators(seed)
                results.append(self.work(self.make_model()))
        self._require_close(results[0], results[1], "built and run twice", tolerance=0.0)

    def test_gradient_mode_does_not_matter(self) -> None:
        """The result is the same under torch.no_grad().

        Work inside `with torch.enable_grad():` where gradients are needed.
        """
        model = self.make_model()
        usual = self.work(model)
        with torch.no_grad():
            without = self.work(model)
        self._require_close(usual, without, "with and without gradients enabled")

    def test_training_mode_does_not_matter(self) -> None:
        """The result is the same for a model in training mode with frozen parameters.

        Work inside `with model.frozen():`, and compute gradients only of your own tensors.
        """
        model = self.make_model()
        usual = self.work(model)
        disturb(model)
        with preserved_random_state():
            disturbed = self.work(model)
        self._require_close(usual, disturbed, "in evaluation and in training mode")

    def test_padding_side_does_not_matter(self) -> None:
        """The tokenizer's padding side does not matter.

        Encode with model.read or model.encode, and pad with editkit.models.encoding.padded.
        """
        left, right = (self.work(self.make_model(padding_side=side)) for side in ("left", "right"))
        self._require_close(left, right, "padded on the left and on the right")

    def test_end_tokens_do_not_matter(self) -> None:
        """A tokenizer that appends an end token to every text gives the same result.

        Encode prompts with model.read and requests with model.requested, which omit such
        tokens.
        """
        usual, ended = (self.work(self.make_model(begin=True, end=end)) for end in (False, True))
        self._require_close(usual, ended, "with and without an end token")

    # ------------------------------------------------------------ helpers

    def _require_unchanged(self, area: Area) -> None:
        model = self.make_model()
        disturb(model)
        before = state_of(model)
        with preserved_random_state():
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
            f"{how}, the results differ by {distance:.2g} of their size, allowed is {allowed:g}.",
        )

    def _done_or_refused(self, model: LanguageModel, work: Callable[[], object], what: str) -> None:
        """Do work that may raise an :class:`EditkitError`, but no other error."""
        before = state_of(model)
        try:
            work()
        except EditkitError:
            pass
        except ContractError:
            raise
        except Exception as error:
            raise ContractError(
                f"{what} raises {first_line(error, named=True)}; expected an EditkitError."
            ) from error
        changed = differences(before, state_of(model))
        require(not changed, f"after {what}, {few(changed)} changed.")


class _PlannedError(RuntimeError):
    """Stands for any error inside a model, such as running out of memory."""


def _failures_inside(
    model: LanguageModel, work: Callable[[], object]
) -> Iterator[Callable[[], None]]:
    """Functions that each do the work and fail inside a block: early, halfway, or at the end.

    The work is first done once without failing, to count how often blocks run. Nothing fails if
    the work does not run the model.
    """
    failure = _Failure()
    handles = [
        model.block(layer).register_forward_pre_hook(failure) for layer in range(model.n_layers)
    ]
    try:
        work()
        calls = failure.calls
        for call in sorted({1, calls // 2, calls} - {0}):
            yield functools.partial(failure.attempt, work, call)
    finally:
        for handle in handles:
            handle.remove()


class _Failure:
    """Counts the runs of all blocks, and raises an error in one of them."""

    def __init__(self) -> None:
        self.calls = 0
        self.call: int | None = None

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        self.calls += 1
        if self.calls == self.call:
            raise _PlannedError("raised on purpose by the contract")

    def attempt(self, work: Callable[[], object], call: int) -> None:
        self.calls, self.call = 0, call
        try:
            work()
        except _PlannedError:
            pass
        finally:
            self.call = None
