"""The rules for editors that write several facts into one model: jointly, or in a sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from editkit.data_types import EditRequest
from editkit.editing.delta_files import load_delta, save_delta
from editkit.editing.deltas import WeightDelta, applied, check_fits, stack
from editkit.errors import DeltaError, EditkitError
from editkit.interfaces import Editor, State
from editkit.models.language_model import LanguageModel
from editkit.registry.random_state import preserved_random_state
from editkit.storage.digests import digest_of_tensors
from editkit.testing.contract import ContractError, few, require
from editkit.testing.model_contract import ModelContract
from editkit.testing.state import differences, disturb, state_of

REQUESTS = (
    EditRequest("{} is in the city of", "The Space Needle", "Paris", "Seattle"),
    EditRequest("The mother tongue of {} is", "Danielle Darrieux", "Italian words", "French"),
    EditRequest("{} was created by", "Mario Kart", "Microsoft", relation_id="P178"),
)
_OVERRIDDEN = {"joint": "edit_jointly", "sequential": "step"}


class RegimeContract(ModelContract):
    """The rules for joint edits and steps of a sequence.

    Attributes:
        requests: Requests to edit; at least two.
    """

    requests: Sequence[EditRequest] = REQUESTS

    def prepared(self, model: LanguageModel) -> Editor[Any]:
        """A new editor, checked and prepared for the unedited model, as in a benchmark."""
        editor: Editor[Any] = self.make()
        editor.check(model)
        editor.prepare(model)
        return editor

    def edit_jointly(
        self,
        model: LanguageModel,
        requests: Sequence[EditRequest],
        editor: Editor[Any] | None = None,
    ) -> WeightDelta:
        """One delta for all requests."""
        delta = (editor or self.prepared(model)).edit_jointly(model, requests)
        _require_delta(delta, requests, "edit_jointly()")
        return delta

    def step(
        self,
        editor: Editor[Any],
        model: LanguageModel,
        requests: Sequence[EditRequest],
        state: State,
    ) -> tuple[WeightDelta, State]:
        """One step of a sequence, on the model as it is."""
        result = editor.step(model, requests, state)
        require(
            isinstance(result, tuple) and len(result) == 2,
            f"step() returned {result!r:.80}, expected a delta and a state.",
        )
        delta, after = result
        _require_delta(delta, requests, "step()")
        require(
            isinstance(after, Mapping)
            and all(isinstance(k, str) and isinstance(t, Tensor) for k, t in after.items()),
            f"step() returned the state {after!r:.80}, expected tensors by name.",
        )
        return delta, after

    # ------------------------------------------------------------ the spec

    def test_regimes_are_declared(self) -> None:
        """The spec's regimes are those that the class implements.

        Give EditorSpec(regimes=...) "independent", "joint" if the class overrides edit_jointly,
        and "sequential" if it overrides step.
        """
        spec: Any = self.offer().spec
        implemented = {"independent"} | {
            regime
            for regime, method in _OVERRIDDEN.items()
            if getattr(type(self.make()), method) is not getattr(Editor, method)
        }
        require(
            set(spec.regimes) == implemented,
            f"the spec's regimes are {spec.regimes!r}, the class implements "
            f"{', '.join(sorted(implemented))}.",
        )

    # ------------------------------------------------------------ joint edits

    def test_one_delta_for_all_requests(self) -> None:
        """edit_jointly() returns one delta with all requests, finite, on each architecture.

        Pass self.delta() the whole sequence of requests. Notes of single requests go into a
        list `facts`, in the order of the requests.
        """
        path = self.scratch / "joint.safetensors"
        for architecture in self.architectures:
            model = self.make_model(architecture)
            editor = self.prepared(model)
            delta = self.edit_jointly(model, self.requests, editor)
            for what, value, expected in (
                ("editor", delta.editor, self.plugin),
                ("config", delta.config, editor.config.model_dump(mode="json")),
                ("model_fingerprint", delta.model_fingerprint, model.fingerprint),
            ):
                require(value == expected, f"{what} is {value!r}, expected {expected!r}.")
            try:
                check_fits(model, delta)
                save_delta(delta, path)
            except (DeltaError, TypeError, ValueError) as error:
                raise ContractError(f"on {architecture}: {error}") from None
            again = load_delta(path)
            require(again.notes == delta.notes, f"notes were {delta.notes!r:.80} before saving.")
            facts = delta.notes.get("facts", [None] * len(self.requests))
            require(
                isinstance(facts, list) and len(facts) == len(self.requests),
                f"notes['facts'] is {facts!r:.80}, expected one entry per request.",
            )

    def test_joint_edit_of_one_fact(self) -> None:
        """A joint edit of one fact is its independent edit.

        Solve for one request as for many: do not average, normalise or regularise differently.
        """
        model = self.make_model()
        editor = self.prepared(model)
        for request in self.requests[:2]:
            [alone] = editor.edit(model, [request])
            joint = self.edit_jointly(model, [request], editor)
            self._require_close([alone], [joint], "edited alone and jointly")

    def test_many_facts_leave_the_model_alone(self) -> None:
        """edit_jointly() and step() leave the model and all random states as they were.

        Work inside `with model.frozen():`, and apply edits of your own with applied().
        """
        model = self.make_model()
        editor = self.prepared(model)
        disturb(model)
        before = state_of(model)
        with preserved_random_state():
            self.edit_jointly(model, self.requests[:2], editor)
            self.step(editor, model, self.requests[:2], {})
            changed = differences(before, state_of(model))
        require(not changed, f"{few(changed)} changed.")

    # ------------------------------------------------------------ sequences

    def test_first_step_is_a_joint_edit(self) -> None:
        """The first step of a sequence, with an empty state, is the joint edit of its requests.

        Treat {} as the state of a model that nothing was written into; edit_jointly() can
        return self.step(model, requests, {})[0].
        """
        model = self.make_model()
        editor = self.prepared(model)
        joint = self.edit_jointly(model, self.requests[:2], editor)
        first, _ = self.step(editor, model, self.requests[:2], {})
        self._require_close([joint], [first], "edited jointly and in a first step")

    def test_steps_build_on_each_other(self) -> None:
        """The delta of a step applies on top of the earlier ones, and can be undone.

        Return what this step adds to the model as it is, not the sum of all steps.
        """
        model = self.make_model()
        editor = self.prepared(model)
        before = state_of(model)
        first, state = self.step(editor, model, self.requests[:1], {})
        with applied(model, first.without_context()):
            fingerprint, edited = model.fingerprint, state_of(model)
            second, _ = self.step(editor, model, self.requests[1:2], state)
            changed = differences(edited, state_of(model))
            require(not changed, f"after a second step, {few(changed)} changed.")
        require(
            second.model_fingerprint == fingerprint or not second.changes,
            "the delta of a second step was not made on the model with the first step applied.",
        )
        try:
            stack([first, second])
            with applied(model, [first.without_context(), second.without_context()]):
                pass
        except EditkitError as error:
            raise ContractError(f"both steps together cannot be applied: {error}") from None
        changed = differences(before, state_of(model))
        require(not changed, f"after applying both steps, {few(changed)} changed.")

    def test_sequences_can_be_resumed(self) -> None:
        """A new editor continues from a state that was stored, with the same bits.

        Keep everything that later steps depend on in the state, as tensors, and nothing in the
        editor. Do not modify the state that you are given.
        """
        model = self.make_model()
        editor = self.prepared(model)
        first, state = self.step(editor, model, self.requests[:1], {})
        try:
            stored = save(dict(state))
        except (RuntimeError, ValueError) as error:
            raise ContractError(f"the state cannot be saved as safetensors: {error}") from None
        digest = digest_of_tensors(state)
        resumed = self.prepared(self.make_model())
        with applied(model, first.without_context()):
            second, after = self.step(editor, model, self.requests[1:2], state)
        require(digest_of_tensors(state) == digest, "the state was modified by the next step.")
        again = self.make_model()
        with applied(again, first.without_context()):
            other, after_other = self.step(resumed, again, self.requests[1:2], load(stored))
        require(
            second.digest() == other.digest()
            and digest_of_tensors(after) == digest_of_tensors(after_other),
            "the second step differs when a new editor continues from the stored state.",
        )


def _require_delta(delta: Any, requests: Sequence[EditRequest], what: str) -> None:
    require(
        isinstance(delta, WeightDelta),
        f"{what} returned {delta!r:.80}, expected one WeightDelta.",
    )
    require(
        delta.requests == tuple(requests),
        f"{what} returned a delta with the requests {delta.requests!r:.120}.",
    )
    for name, change in delta.changes.items():
        require(change.is_finite(), f"{what}: the change of {name} is not finite.")
