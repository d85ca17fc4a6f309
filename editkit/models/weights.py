"""A model's weights in memory, the edits that are applied to them, and their identity.

The *identity* decides which cache entries and deltas belong to a model. For the model as loaded it
is the fingerprint; with edits applied, a digest of the fingerprint and the edits in their order;
after any other change (weights in place, also through ``.data``, a new tensor, an adapter, modules,
config, tokenizer), a digest of the model in memory. Changes are detected by checksums over all
bytes, which cost one read of the weights from memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
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

__all__ = ["AppliedEdit", "Ticket", "Weights"]

_SETTINGS = "(config and tokenizer)"  # cannot be a tensor's name
_log = logging.getLogger(__name__)
_editing: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Weights]] = weakref.WeakKeyDictionary()
_claiming = threading.Lock()


# ---------------------------------------------------------------- edits that are applied


@dataclasses.dataclass(frozen=True, eq=False)
class AppliedEdit:
    """An edit that is, or will be, applied.

    Attributes:
        names: Parameters that it changes.
        digest: Gives the digest of the edit.
        total: Gives the sum that several edits add to a parameter, from the parameter's name and
            all edits that change it, in order: float32, in the layout of the stored parameter.
        edit: The edit itself, for :attr:`total`.
    """

    names: Sequence[str]
    digest: Callable[[], str]
    total: Callable[[str, Sequence[AppliedEdit]], Tensor]
    edit: Any


class Ticket:
    """Keeps an edit applied: when the last reference to it is gone, the edit is removed."""


@dataclasses.dataclass(eq=False)
class _Touched:
    """A parameter that edits have changed.

    Attributes:
        parameter: The parameter.
        original: A copy of it without any edit.
        checksums: The original's checksum, under each of the parameter's names.
    """

    parameter: nn.Parameter
    original: Tensor
    checksums: dict[str, bytes]


class Weights:
    """The weights of a model, the edits that are applied to them, and their identity.

    Args:
        hf: Gives the model.
        name: The model, for messages.
        fingerprint: The model's fingerprint; None: computed from the weights when first needed.
        surroundings: Gives a digest of config and tokenizer, for identities that are computed.
        settings: As ``surroundings``, but cheap: leaves out parts that hardly ever change.

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
        self._edits: dict[int, tuple[AppliedEdit, weakref.ref[Ticket]]] = {}
        self._suspended: frozenset[int] = frozenset()  # serials of edits that are taken out for now
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
        self._foreign: str | None = None  # identity if weights changed while edits were applied

    # ------------------------------------------------------------ identity

    def checksums(self) -> Checksums:
        """Checksums of all weights and of the settings."""
        return {**checksums_of(self._hf()), _SETTINGS: self._settings()}

    def identity(self) -> str:
        """The identity of the weights as they are now.

        Raises:
            ModelError: They were changed and are not finite.
        """
        with self._lock:
            self._settle()
            now = self.checksums()
            if now == self._expected:
                self._marks, self._foreign = marks_of(self._hf()), None
                return self._with_edits()
            total = total_of(now)
            if total not in self._known:
                changed = {n: c for n, c in now.items() if self._expected.get(n) != c}
                check_finite(self._hf(), changed, self._name)
                self._known[total] = self._content()
                if self._root is not None:  # a caller may hold the earlier identity
                    self._warn(changed, now)
            self._marks = marks_of(self._hf())
            if self._edits:
                self._foreign = self._known[total]
                return self._foreign
            self._root, self._expected, self._foreign = self._known[total], now, None
            return self._root

    def base(self, *, look: bool = True) -> str:
        """The identity without the applied edits.

        Args:
            look: Whether to look for any change first; otherwise as cheap as :meth:`state`, and as
                blind to writes through ``.data``.
        """
        with self._lock:
            if look or self.state()[0] is None:
                self.identity()
            return str(self._foreign or self._root)

    def acceptable(self, *, look: bool = True) -> list[str]:
        """The identities of the models whose deltas may be applied now.

        These are the base, and the base with the first, the first two, ... applied edits.

        Args:
            look: As for :meth:`base`.
        """
        with self._lock:
            if look:
                self.identity()
            else:
                self.state()
            now = self._foreign or self._with_edits()
            if self._foreign or not self._in_order():
                return [now]
            identities = [self._root or now]
            for edit in self._in_order():
                identities.append(chained(identities[-1], edit.digest()))
            return identities

    def state(self) -> tuple[object, ...]:
        """A cheap value that changes with the weights, except for writes through ``.data``."""
        with self._lock:
            if self._unsettled or marks_of(self._hf()) != self._marks:
                self.identity()
            edits = tuple(serial for serial in self._edits if serial not in self._suspended)
            return self._root, self._foreign, edits

    def _with_edits(self) -> str:
        if self._root is None:
            if self._edits:
                raise AssertionError("the base is known before an edit is applied")
            self._root = self._known[total_of(self._expected)] = self._content()
        identity = self._root
        for edit in self._in_order():
            identity = chained(identity, edit.digest())
        return identity

    def _content(self) -> str:
        more = repr(sorted({**structure_of(self._hf()), **switches_of(self._hf())}.items()))
        return digest_of_tensors(tensors_of(self._hf()), self._surroundings() + more)

    def _warn(self, changed: Mapping[str, bytes], now: Checksums) -> None:
        names = list(changed) or sorted(self._expected.keys() - now.keys())
        weights = [name for name in names if not name.startswith("(")]
        inside = " while edits are applied" if self._edits else ""
        if weights:
            n_tensors = sum(not name.startswith("(") for name in now)
            what = "the weights of"
            where = f"{len(weights)} of {n_tensors} tensors, {weights[0]} first"
        else:
            what, where = "settings of", ", ".join(name.strip("()") for name in names)
        _log.warning(
            "%s %s were changed in memory%s (%s): results, cache entries and edits now belong to "
            "the changed model, not to the model as loaded",
            what,
            self._name,
            inside,
            where,
        )

    # ------------------------------------------------------------ applying and removing

    def apply(self, edit: AppliedEdit, *, look: bool = True) -> Ticket:
        """Add an edit to the applied edits.

        Args:
            edit: The edit.
            look: Whether to look for other changes first; not needed right after
                :meth:`acceptable`, or after another edit was applied.

        Returns:
            A ticket for :meth:`take_back`.

        Raises:
            DeltaError: Another thread has applied edits, or the weights were changed in other ways
                while edits are applied.
        """
        ticket = Ticket()
        with self._lock:
            me = threading.get_ident()
            self._check_thread(me)
            self._claim()
            if look:
                self.identity()
            self._check_foreign()
            parameters = {name: self._hf().get_parameter(name) for name in edit.names}
            for name, parameter in parameters.items():
                self._keep(name, parameter)
            serial = next(self._serials)
            self._thread = me
            reference = weakref.ref(ticket, lambda _: self._remove(serial))
            try:
                self._edits[serial] = edit, reference
                self._change(parameters.values())
            except BaseException:
                self._remove(serial)
                raise
            self._warn_infinite(edit)
        return ticket

    def _check_thread(self, me: int) -> None:
        if self._edits and self._thread != me:
            raise DeltaError(
                f"{self._name} is being edited by another thread.",
                hint="Apply edits in one thread at a time, or load the model in each thread.",
            )

    def _check_foreign(self) -> None:
        if self._foreign:
            raise DeltaError(
                f"the weights of {self._name} were changed inside applied(), apart from its edit.",
                hint="Leave the block before changing weights or applying another edit.",
            )

    def _claim(self) -> None:
        """Refuse a network that another object edits: the last one would restore its edits."""
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
        return bool(self._edits)

    @property
    def n_applied(self) -> int:
        """Number of applied edits."""
        return len(self._edits)

    def take_back(self, ticket: Ticket) -> None:
        """Remove an edit, in any order and from any thread; the others stay applied."""
        for serial, (_, reference) in list(self._edits.items()):
            if reference() is ticket:
                self._remove(serial)

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Take all applied edits out of the weights inside the block, and put them back at its end.

        Edits that are applied inside the block are not affected. An edit that ends inside the block
        is not put back.

        Raises:
            DeltaError: Another thread has applied edits, or the weights were changed in other ways
                while edits are applied.
        """
        with self._lock:
            self._check_thread(threading.get_ident())
            if self._edits:
                self.identity()
            self._check_foreign()
            active = frozenset(self._edits) - self._suspended
        try:
            self._suspend(self._suspended | active)
            yield
        finally:
            self._suspend(self._suspended - active)

    def _suspend(self, serials: frozenset[int]) -> None:
        """Take out exactly these of the applied edits."""
        with self._lock:
            if serials == self._suspended:
                return
            self._suspended = serials
            try:
                self._change([touched.parameter for touched in self._touched.values()])
            except BaseException:  # Ctrl-C: try again, or the weights would not be as stated
                self._settle()
                raise

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
            if serial not in self._edits:
                return
            edit, _ = self._edits.pop(serial)
            changed = [
                touched.parameter
                for touched in self._touched.values()
                if self._changes(edit, touched)
            ]
            try:
                self._change(changed)
            except BaseException:  # Ctrl-C: try again, or the model would stay edited
                self._settle()
                raise

    def _change(self, parameters: Any) -> None:
        if self._foreign:
            self._marks = {}  # the next look detects the other changes again
        self._unsettled |= {id(parameter) for parameter in parameters}
        self._generation += 1
        self._settle()

    def _settle(self) -> None:
        """Set every parameter to its original value plus the applied edits."""
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
                continue  # the garbage collector removed an edit in between
            self._note(touched, plain=update is None)
            if not any(self._changes(edit, touched) for edit, _ in self._edits.values()):
                del self._touched[key]
            self._unsettled.discard(key)

    def _update(self, touched: _Touched) -> Tensor | None:
        """The sum of all edits of a parameter, under all its names; None without edits."""
        edits = self._in_order()
        names = [name for edit in edits for name in edit.names if name in touched.checksums]
        update: Tensor | None = None
        for name in dict.fromkeys(names):
            its = [edit for edit in edits if name in edit.names]
            part = its[0].total(name, its)
            update = part if update is None else update + part
        return update

    def _note(self, touched: _Touched, *, plain: bool) -> None:
        """Remember a parameter's expected value, so that other changes are detected."""
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

    def _warn_infinite(self, edit: AppliedEdit) -> None:
        bad = [name for name in edit.names if not is_finite(self._hf().get_parameter(name))]
        if bad:
            _log.warning(
                "with this edit, %s of %s has NaN or infinity: the model's answers are meaningless",
                bad[0],
                self._name,
            )

    def _in_order(self) -> list[AppliedEdit]:
        """The edits that the weights hold now."""
        return [edit for serial, (edit, _) in self._edits.items() if serial not in self._suspended]

    @staticmethod
    def _changes(edit: AppliedEdit, touched: _Touched) -> bool:
        return not touched.checksums.keys().isdisjoint(edit.names)
