"""What a model's weights are now: those it was loaded with, those with edits, or others.

A model's *identity* decides which cache entries and which deltas belong to it. It is the
fingerprint of the model as it was loaded; with edits applied, a digest of that fingerprint and of
the edits in their order; and where the model was changed in any other way (weights in place, also
through ``.data``, by a new tensor or an adapter; modules, config or tokenizer), a digest of what
it is now. Changes of weights are noticed by checksums over all bytes, which take as long as reading
them from memory once.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from editkit.errors import DeltaError
from editkit.models.checksums import (
    Checksums,
    chained,
    check_finite,
    checksum,
    checksums_of,
    is_finite,
    marks_of,
    structure_of,
    switches_of,
    tensors_of,
    total_of,
    version_of,
)
from editkit.storage.digests import digest_of_tensors

__all__ = ["Layer", "Ticket", "Weights"]

_SETTINGS = "(config and tokenizer)"  # no name of a tensor
_log = logging.getLogger(__name__)
_editing: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Weights]] = weakref.WeakKeyDictionary()
_claiming = threading.Lock()


# ---------------------------------------------------------------- edits that are applied


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """An edit that is, or will be, applied.

    Attributes:
        names: Parameters that it changes.
        digest: Gives the digest of the edit.
        total: Of a parameter's name and of all layers that change it, in order: what they add to
            it together, float32, in the layout in which the parameter is stored.
        edit: What :attr:`total` needs of the layer.
    """

    names: Sequence[str]
    digest: Callable[[], str]
    total: Callable[[str, Sequence[Layer]], Tensor]
    edit: Any


class Ticket:
    """Held by whoever applied an edit; when nobody holds it any more, the edit is taken back."""


@dataclasses.dataclass(eq=False)
class _Touched:
    """A parameter that edits have changed.

    Attributes:
        parameter: The parameter.
        original: A copy of it without any edit.
        checksums: Of the original, by each of the parameter's names.
    """

    parameter: nn.Parameter
    original: Tensor
    checksums: dict[str, bytes]


class Weights:
    """The weights of a model, the edits that are applied to them, and their identity.

    Args:
        hf: Gives the model.
        name: For messages.
        fingerprint: Of the model as it is now; None: computed from the weights when first needed.
        surroundings: Digest of what belongs to an identity besides the weights (config,
            tokenizer), for identities that are computed from the weights.
        settings: Digest of the part of it that is changed in memory now and then; cheap.

    Raises:
        ModelError: A weight is not finite.
    """

    def __init__(
        self,
        hf: Callable[[], nn.Module],
        *,
        name: str,
        fingerprint: str | None,
        surroundings: Callable[[], str],
        settings: Callable[[], bytes] = bytes,
    ) -> None:
        self._hf, self._name = hf, name
        self._surroundings, self._settings = surroundings, settings
        self._lock = threading.RLock()
        self._layers: dict[int, tuple[Layer, weakref.ref[Ticket]]] = {}
        self._serials = itertools.count()
        self._thread: int | None = None
        self._touched: dict[int, _Touched] = {}
        self._unsettled: set[int] = set()  # parameters that do not hold what they should
        self._generation = 0
        self._expected = self.checksums()
        self._marks = marks_of(self._hf())
        check_finite(self._hf(), self._expected, self._name)
        self._root = fingerprint
        self._known: dict[bytes, str] = {}
        if fingerprint is not None:
            self._known[total_of(self._expected)] = fingerprint
        self._foreign: str | None = None  # identity, where weights changed while edits are applied

    # ------------------------------------------------------------ identity

    def checksums(self) -> Checksums:
        """Of all weights as they are now, and of what is computed with them."""
        return {**checksums_of(self._hf()), _SETTINGS: self._settings()}

    def identity(self) -> str:
        """What the weights are now.

        Raises:
            ModelError: They were changed, and are not finite.
        """
        with self._lock:
            self._settle()
            found = self.checksums()
            if found == self._expected:
                self._marks, self._foreign = marks_of(self._hf()), None
                return self._with_layers()
            total = total_of(found)
            if total not in self._known:
                changed = {n: c for n, c in found.items() if self._expected.get(n) != c}
                check_finite(self._hf(), changed, self._name)
                self._known[total] = self._content()
                if self._root is not None:  # somebody may have been told another one
                    self._warn(changed, found)
            self._marks = marks_of(self._hf())
            if self._layers:
                self._foreign = self._known[total]
                return self._foreign
            self._root, self._expected, self._foreign = self._known[total], found, None
            return self._root

    def base(self) -> str:
        """What the weights are without the edits that are applied."""
        with self._lock:
            now = self.identity()
            return self._foreign or self._root or now

    def acceptable(self) -> list[str]:
        """Identities that a delta may have been made on, to be applied now.

        Those of the base and of the base with the first, the first two, ... edits that are applied.
        """
        with self._lock:
            now = self.identity()
            if self._foreign or not self._layers:
                return [now]
            found = [self._root or now]
            for layer in self._in_order():
                found.append(chained(found[-1], layer.digest()))
            return found

    def state(self) -> tuple[object, ...]:
        """Something that is equal as long as the weights are; cheap.

        Writes through ``.data`` do not show in it.
        """
        with self._lock:
            if self._unsettled or marks_of(self._hf()) != self._marks:
                self.identity()
            return self._root, self._foreign, tuple(self._layers)

    def _with_layers(self) -> str:
        if self._root is None:
            if self._layers:
                raise AssertionError("the base is known before an edit is applied")
            self._root = self._known[total_of(self._expected)] = self._content()
        identity = self._root
        for layer in self._in_order():
            identity = chained(identity, layer.digest())
        return identity

    def _content(self) -> str:
        more = repr(sorted({**structure_of(self._hf()), **switches_of(self._hf())}.items()))
        return digest_of_tensors(tensors_of(self._hf()), self._surroundings() + more)

    def _warn(self, changed: Mapping[str, bytes], found: Checksums) -> None:
        names = list(changed) or sorted(self._expected.keys() - found.keys())
        weights = [name for name in names if not name.startswith("(")]
        inside = " while edits are applied" if self._layers else ""
        if weights:
            n_tensors = sum(not name.startswith("(") for name in found)
            what = "the weights of"
            where = f"{len(weights)} of {n_tensors} tensors, {weights[0]} first"
        else:
            what, where = "settings of", ", ".join(name.strip("()") for name in names)
        _log.warning(
            "%s %s were changed in memory%s (%s): from now on results, cache entries and edits "
            "belong to the model as it is now, not to the model as loaded",
            what,
            self._name,
            inside,
            where,
        )

    # ------------------------------------------------------------ applying and taking back

    def apply(self, layer: Layer, *, look: bool = True) -> Ticket:
        """Add an edit to those that are applied.

        Args:
            layer: The edit.
            look: Whether to look first for changes by other means; not needed right after
                :meth:`acceptable`, or after another edit was applied.

        Returns:
            A ticket for :meth:`take_back`.

        Raises:
            DeltaError: Another thread has edits applied, or the weights changed in other ways while
                edits are applied.
        """
        ticket = Ticket()
        with self._lock:
            me = threading.get_ident()
            if self._layers and self._thread != me:
                raise DeltaError(
                    f"{self._name} is being edited by another thread.",
                    hint="Let one thread at a time apply edits to a model, or load it once for "
                    "each thread.",
                )
            self._claim()
            if look:
                self.identity()
            if self._foreign:
                raise DeltaError(
                    f"the weights of {self._name} were changed inside applied(), besides its edit.",
                    hint="Leave the block before changing weights or applying another edit.",
                )
            parameters = {name: self._hf().get_parameter(name) for name in layer.names}
            for name, parameter in parameters.items():
                self._keep(name, parameter)
            serial = next(self._serials)
            self._thread = me
            reference = weakref.ref(ticket, lambda _: self._remove(serial))
            try:
                self._layers[serial] = layer, reference
                self._change(parameters.values())
            except BaseException:
                self._remove(serial)
                raise
            self._warn_infinite(layer)
        return ticket

    def _claim(self) -> None:
        """Refuse what is edited through another object: the last one would restore its edits."""
        with _claiming:
            claimed = _editing.get(self._hf())
            other = claimed() if claimed else None
            if other is not None and other is not self and other.is_edited:
                raise DeltaError(
                    f"{self._name} is being edited through another LanguageModel of the same "
                    "network.",
                    hint="Use one LanguageModel for all edits of a network.",
                )
            _editing[self._hf()] = weakref.ref(self)

    @property
    def is_edited(self) -> bool:
        """Whether edits are applied."""
        return bool(self._layers)

    def take_back(self, ticket: Ticket) -> None:
        """Remove an edit; the others stay applied. In any order, from any thread."""
        for serial, (_, reference) in list(self._layers.items()):
            if reference() is ticket:
                self._remove(serial)

    def _keep(self, name: str, parameter: nn.Parameter) -> None:
        """Copy a parameter before its first change."""
        if id(parameter) not in self._touched:
            names = [n for n, tensor in tensors_of(self._hf()).items() if tensor is parameter] or [
                name
            ]
            self._touched[id(parameter)] = _Touched(
                parameter,
                parameter.detach().clone(),
                {n: self._expected[n] for n in names},
            )

    def _remove(self, serial: int) -> None:
        with self._lock:
            if serial not in self._layers:
                return
            layer, _ = self._layers.pop(serial)
            concerned = [
                touched.parameter
                for touched in self._touched.values()
                if touched.checksums.keys() & set(layer.names)
            ]
            try:
                self._change(concerned)
            except BaseException:  # Ctrl-C: once more, or the model would stay edited
                self._settle()
                raise

    def _change(self, parameters: Any) -> None:
        if self._foreign:
            self._marks = {}  # what was changed besides shows itself anew
        self._unsettled |= {id(parameter) for parameter in parameters}
        self._generation += 1
        self._settle()

    def _settle(self) -> None:
        """Give every parameter the value that the edits which are applied ask for."""
        while self._unsettled:
            key = next(iter(self._unsettled))
            touched, generation = self._touched[key], self._generation
            parameter, original = touched.parameter, touched.original
            with torch.no_grad():
                update = self._update(touched)
                if update is None:
                    value = original
                else:
                    value = (original.float() + update).to(original.dtype)
                if parameter.shape == original.shape:
                    parameter.copy_(value)
            if generation != self._generation:
                continue  # an edit ended meanwhile, by the garbage collector
            self._note(touched, plain=update is None)
            if update is None:
                del self._touched[key]
            self._unsettled.discard(key)

    def _update(self, touched: _Touched) -> Tensor | None:
        """What all edits add to a parameter, under all its names; None where none does."""
        layers = self._in_order()
        names = [name for layer in layers for name in layer.names if name in touched.checksums]
        update: Tensor | None = None
        for name in dict.fromkeys(names):
            its = [layer for layer in layers if name in layer.names]
            part = its[0].total(name, its)
            update = part if update is None else update + part
        return update

    def _note(self, touched: _Touched, *, plain: bool) -> None:
        """Remember what a parameter should be, so that other changes are noticed."""
        tensors = tensors_of(self._hf())
        now = touched.checksums if plain else None
        for name in touched.checksums:
            if tensors.get(name) is not touched.parameter:
                _log.warning(
                    "%s of %s was replaced while an edit was applied to it; the replacement stays",
                    name,
                    self._name,
                )
                continue
            if now is None:
                now = dict.fromkeys(touched.checksums, checksum(touched.parameter))
            self._expected = {**self._expected, name: now[name]}
            tensor = touched.parameter
            self._marks[name] = id(tensor), tensor.data_ptr(), version_of(tensor)

    def _warn_infinite(self, layer: Layer) -> None:
        bad = [name for name in layer.names if not is_finite(self._hf().get_parameter(name))]
        if bad:
            _log.warning(
                "with this edit, %s of %s holds NaN or infinity: what the model answers means "
                "nothing",
                bad[0],
                self._name,
            )

    def _in_order(self) -> list[Layer]:
        return [layer for layer, _ in self._layers.values()]
