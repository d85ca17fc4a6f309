"""The rules that every editor keeps."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any
from unittest import SkipTest

import torch
from typing_extensions import override

from editkit.data_types import EditRequest
from editkit.editing.delta_files import load_delta, save_delta
from editkit.editing.deltas import WeightDelta, applied, check_fits
from editkit.editing.edited_models import CandidateQuery, EditedModels
from editkit.errors import DeltaError, EditkitError
from editkit.interfaces import Editor
from editkit.models.language_model import LanguageModel
from editkit.models.shape import shape_of
from editkit.testing.contract import ContractError, few, require
from editkit.testing.model_contract import UNICODE
from editkit.testing.regime_contract import REQUESTS, RegimeContract
from editkit.testing.state import differences, state_of

__all__ = ["REQUESTS", "EditorContract"]

_PLACES = ("{} is in", "The city of {}", 'They said: "{}" is in', "({}), it is", "{}")
_LAYER = 10**6
_LEAST_SHARE = 0.7  # of the deltas that requirements must cover
_SLACK = 0.1  # share of the weights that is negligible


class EditorContract(RegimeContract):
    """The rules for an editor; a subclass names it: ``plugin = "mine"``.

    Attributes:
        requests: Requests to edit; at least two.
        separators: Whether the separator between prompt and target matters; False for a method
            that uses targets without it.
    """

    kind = "editor"
    base = Editor

    separators: bool = True

    @override
    def try_out(self) -> None:
        model, editor = self.make_model(), self.make()
        editor.check(model)
        editor.prepare(model)

    @override
    def work(self, model: LanguageModel) -> list[WeightDelta]:
        return self.edit(model, self.requests)

    @override
    def distance(self, first: Sequence[WeightDelta], second: Sequence[WeightDelta]) -> float:
        return max(_distance(a, b) for a, b in zip(first, second, strict=True))

    def edit(
        self,
        model: LanguageModel,
        requests: Sequence[EditRequest],
        editor: Editor[Any] | None = None,
    ) -> list[WeightDelta]:
        """Edit as a benchmark does: check, prepare, edit. Returns one delta per request."""
        editor = editor or self.make()
        editor.check(model)
        editor.prepare(model)
        deltas = editor.edit(model, requests)
        require(
            isinstance(deltas, list) and all(isinstance(each, WeightDelta) for each in deltas),
            f"edit() returned {deltas!r:.80}, expected a list of WeightDelta.",
        )
        require(
            len(deltas) == len(requests),
            f"edit() returned {len(deltas)} deltas for {len(requests)} requests.",
        )
        return deltas

    # ------------------------------------------------------------ deltas

    def test_one_delta_per_request(self) -> None:
        """edit() returns one delta per request, in order, each with its request.

        Pass self.delta() the request itself; edit_jointly() is for several.
        """
        deltas = self.edit(self.make_model(), self.requests)
        for request, delta in zip(self.requests, deltas, strict=True):
            require(
                delta.requests == (request,),
                f"the delta for {request.sentence!r} has the request {delta.request!r}.",
            )

    def test_no_requests_no_deltas(self) -> None:
        """edit() returns an empty list for no requests.

        Return [] before anything is stacked or averaged.
        """
        deltas = self.edit(self.make_model(), [])
        require(deltas == [], f"edit() returned {deltas!r}, expected [].")

    def test_deltas_are_finite(self) -> None:
        """Every number in every delta is finite.

        Look for divisions by zero, overflow in half precision, and a learning rate that is
        too large.
        """
        for delta in self.edit(self.make_model(), self.requests):
            _require_finite(delta)

    def test_deltas_fit_the_model(self) -> None:
        """Each delta names parameters of the model and fits their shapes, on each architecture.

        Changes are input-major, (in, out), however the model stores its weights:
        editkit.models.weight_layout.input_major transposes a stored weight if needed.
        """
        for architecture in self.architectures:
            model = self.make_model(architecture)
            for delta in self.edit(model, self.requests):
                try:
                    check_fits(model, delta)
                except DeltaError as error:
                    raise ContractError(f"on {architecture}: {error.message}") from None
                _require_finite(delta, f" on {architecture}")

    def test_deltas_say_where_they_come_from(self) -> None:
        """Each delta names its editor, its configuration and the model that was edited.

        Build deltas with self.delta(model, request, changes), which sets all three.
        """
        model, editor = self.make_model(), self.make()
        for delta in self.edit(model, self.requests, editor):
            for what, value, expected in (
                ("editor", delta.editor, self.plugin),
                ("config", delta.config, editor.config.model_dump(mode="json")),
                ("model_fingerprint", delta.model_fingerprint, model.fingerprint),
            ):
                require(value == expected, f"{what} is {value!r}, expected {expected!r}.")
        with applied(model, delta.without_context()):
            [above] = self.edit(model, self.requests[:1], editor)
            what = "model_fingerprint differs when another edit is applied."
            require(above.model_fingerprint == model.fingerprint, what)

    def test_deltas_stand_on_their_own(self) -> None:
        """Deltas share no memory with the model and require no gradients.

        Detach and clone tensors of the model.
        """
        model = self.make_model()
        own = {
            tensor.untyped_storage().data_ptr()
            for tensor in (*model.hf.parameters(), *model.hf.buffers())
        }
        for delta in self.edit(model, self.requests):
            for name, change in delta.changes.items():
                for field, tensor in change.tensors().items():
                    what = f"{field} of the change of {name}"
                    require(not tensor.requires_grad, f"{what} requires a gradient.")
                    shared = tensor.numel() and tensor.untyped_storage().data_ptr() in own
                    require(not shared, f"{what} is a view of the model's own memory.")

    def test_deltas_survive_files(self) -> None:
        """Each delta is unchanged after it is saved and loaded: changes, request, config, notes.

        Use plain data in notes: texts, numbers, lists, mappings with texts as keys.
        """
        path = self.scratch / "delta.safetensors"
        for delta in self.edit(self.make_model(), self.requests):
            try:
                save_delta(delta, path)
            except (TypeError, ValueError) as error:
                raise ContractError(f"the delta cannot be saved: {error}.") from None
            again = load_delta(path)
            for what in ("request", "editor", "config", "model_fingerprint", "notes", "context"):
                loaded, saved = getattr(again, what), getattr(delta, what)
                require(loaded == saved, f"{what} was {saved!r} and is loaded as {loaded!r}.")
            require(_distance(delta, again) == 0, "the changes differ after loading.")

    def test_prepare_can_be_repeated(self) -> None:
        """prepare() does not change the model, and repeating it changes nothing.

        Store prepared data by the model's fingerprint; do not accumulate it.
        """
        model, editor = self.make_model(), self.make()
        before = state_of(model)
        editor.prepare(model)
        editor.prepare(model)
        changed = differences(before, state_of(model))
        require(not changed, f"prepare() changed {few(changed)}.")
        self._require_close(
            self.edit(model, self.requests),
            self.edit(model, self.requests, editor),
            "prepared once and three times",
            tolerance=0.0,
        )

    # ------------------------------------------------------------ applying the edit

    def test_applying_is_taken_back(self) -> None:
        """Applying an edit and leaving the context restores every bit, also after an exception.

        Return deltas of editkit's own types: LowRank, Rows or Dense.
        """
        model = self.make_model()
        for delta in self.edit(model, self.requests):
            before = state_of(model)
            for interrupted in (False, True):
                with contextlib.suppress(_Planned), applied(model, delta.without_context()):
                    if interrupted:
                        raise _Planned
                changed = differences(before, state_of(model))
                require(not changed, f"after applying: {few(changed)} changed.")

    def test_rows_of_a_batch_see_the_same_edit(self) -> None:
        """The edit has the same effect on a row of a batch as on the weights themselves.

        Change weights and biases of linear modules, in a way that does not depend on the
        input.
        """
        model = self.make_model()
        deltas = self.edit(model, self.requests)
        queries = [
            CandidateQuery(place, request.sentence, ("Paris", "French"))
            for place, request in enumerate(self.requests)
        ]
        models = EditedModels(model, deltas)
        for query, delta, row in zip(queries, deltas, models.candidate_nll(queries), strict=True):
            asked = dataclasses.replace(query, prompt=models.in_context(query.edit, query.prompt))
            with applied(model, delta.without_context()):
                [plain] = models.unedited().candidate_nll([asked])
            require(
                all(
                    abs(a - b) <= self.tolerance * (1 + abs(b))
                    for a, b in zip(row, plain, strict=True)
                ),
                f"for {query.prompt!r} the batch gives {row}, the edited weights give {plain}.",
            )

    # ------------------------------------------------------------ batches

    def test_batch_equals_one_by_one(self) -> None:
        """Requests edited together give the same deltas as one at a time.

        Mask padding, and average within a request and not over the batch. Edits that affect
        each other belong in edit_jointly().
        """
        model = self.make_model()
        together = self.edit(model, self.requests)
        alone = [self.edit(model, [request])[0] for request in self.requests]
        self._require_close(alone, together, "edited alone and together")
        backwards = self.edit(model, self.requests[::-1])[::-1]
        self._require_close(together, backwards, "in this order and in reverse")

    # ------------------------------------------------------------ kinds of models and requests

    def test_half_precision(self) -> None:
        """A model in bfloat16 can be edited, with finite deltas that can be undone.

        Compute in float32 where precision matters: weight.float().
        """
        model = self.make_model(dtype=torch.bfloat16)
        deltas = self.edit(model, self.requests)
        before = state_of(model)
        for delta in deltas:
            _require_finite(delta, " in bfloat16")
            with applied(model, delta.without_context()):
                pass
        changed = differences(before, state_of(model))
        require(not changed, f"after applying in bfloat16: {few(changed)} changed.")

    def test_start_tokens(self) -> None:
        """A tokenizer that puts a start token before every text works.

        Take positions from Encoding.position, which counts such tokens.
        """
        for delta in self.edit(self.make_model(begin=True), self.requests):
            _require_finite(delta, " with a start token")

    def test_separators_and_chats(self) -> None:
        """The separator between prompt and target, and a chat around them, change the edit.

        Encode requests with model.requested, which uses each request's separator and chat.
        This does not apply if the deltas do not depend on the target, or on the prompt. An edit of
        prompts alone need not depend on the chat, which surrounds its texts too.
        """
        model, request = self.make_model(), self.requests[0]
        [usual] = self.edit(model, [request])

        def changes(**values: Any) -> bool:
            [other] = self.edit(model, [dataclasses.replace(request, **values)])
            return _distance(usual, other) > 0

        if self.separators and changes(target_new="Microsoft"):
            for separator in ("", " (", "\n"):
                what = f"the separator {separator!r} makes no difference."
                require(changes(separator=separator), what)
            require(not changes(separator=" "), "the separator ' ' is not the default one.")
        if usual.changes and changes(prompt=f"In France, {request.prompt}"):
            require(changes(chat=True), "a chat around the request makes no difference.")

    def test_unicode(self) -> None:
        """Subjects and targets in any script can be edited.

        Find tokens by the characters that they cover, never by decoding single tokens.
        """
        model = self.make_model()
        for text in UNICODE:
            request = EditRequest("{} is in the city of", text, text)
            try:
                [delta] = self.edit(model, [request])
            except EditkitError as error:
                raise ContractError(f"the subject {text!r} is refused: {error}") from error
            _require_finite(delta, f" for the subject {text!r}")

    def test_subject_anywhere(self) -> None:
        """A subject at the start, at the end or after a quote is edited, or refused.

        Raise an EditkitError if a request cannot be carried out.
        """
        model = self.make_model()
        for prompt in _PLACES:
            self._edited_or_refused(model, [EditRequest(prompt, "Rome", "Seattle", "Paris")])

    def test_impossible_requests_are_refused(self) -> None:
        """A request longer than the model's context is edited, or refused.

        Call model.check_length on every encoding; a truncated text loses its subject.
        """
        model = self.make_model()
        long = "word " * model.context_length
        for prompt in (long + "{} is in", "{} is in " + long.strip()):
            self._edited_or_refused(model, [*self.requests, EditRequest(prompt, "Rome", "Paris")])

    def test_wrong_layers_are_refused(self) -> None:
        """check() refuses a layer that the model does not have.

        Call model.check_layer(self.config.layer) in check(): it runs before any work is
        done.
        """
        if "layer" not in type(self.make_config()).model_fields:
            raise SkipTest("the config has no field named layer")
        try:
            self.make(layer=_LAYER).check(self.make_model())
        except EditkitError:
            return
        raise ContractError(f"check() accepts layer {_LAYER} of a model that has only a few.")

    def test_requirements_are_realistic(self) -> None:
        """requirements() covers at least the deltas, and names real modules for its statistics.

        Count bytes of float32 values; name statistics by the path of their module.
        """
        requests = len(self.requests)
        for architecture in self.architectures:
            model = self.make_model(architecture)
            shape = shape_of(model.hf.config)
            required = self.make().requirements(shape, requests=requests, tokens=16)
            if required is None:
                raise SkipTest("the editor states no requirements")
            memory = required.memory
            require(isinstance(memory, int) and memory >= 0, f"memory is {memory!r}.")
            for statistic in required.statistics:
                weight = shape.module_parameters(statistic.path).get("weight", ())
                require(
                    statistic.width in weight,
                    f"a statistic of width {statistic.width} is required at {statistic.path!r}, "
                    f"but the weight there has the shape {tuple(weight)} on {architecture}.",
                )
            actual = _bytes_of(self.edit(model, self.requests))
            require(
                memory + _SLACK * shape.weight_bytes >= _LEAST_SHARE * actual,
                f"the requirements for {requests} requests are {memory} bytes, but the deltas "
                f"alone take {actual} on {architecture}.",
            )

    def _edited_or_refused(self, model: LanguageModel, requests: Sequence[EditRequest]) -> None:
        def work() -> None:
            for delta in self.edit(model, requests):
                _require_finite(delta)

        last = requests[-1]
        what = f"the request {last.prompt!r:.60} with the subject {last.subject!r}"
        self._done_or_refused(model, work, what)


class _Planned(Exception):
    """Raised by a rule itself."""


def _bytes_of(deltas: Sequence[WeightDelta]) -> int:
    """Memory of all changes; a change that several deltas share counts once."""
    changes = {id(change): change for delta in deltas for change in delta.changes.values()}
    return sum(t.nbytes for change in changes.values() for t in change.tensors().values())


def _distance(first: WeightDelta, second: WeightDelta) -> float:
    """Norm of the difference, relative to the larger; infinite for other parameters or contexts."""
    if first.changes.keys() != second.changes.keys() or first.context != second.context:
        return float("inf")
    squares = 0.0
    for name, change in first.changes.items():
        other = second.changes[name]
        if change.shape != other.shape:
            return float("inf")
        squares += float((change.dense().double() - other.dense().double()).norm()) ** 2
    largest = max(first.norm(), second.norm())
    return float(squares**0.5 / largest) if largest else 0.0


def _require_finite(delta: WeightDelta, where: str = "") -> None:
    """Raise a :class:`ContractError` if a number in the delta is not finite."""
    for name, change in delta.changes.items():
        require(change.is_finite(), f"the change of {name} is not finite{where}.")
