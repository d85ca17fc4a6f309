"""A ledger: which patches are applied to a model, who applied them and when, and the model itself.

The served model folder is the base model plus the sum of the applied patches, in an order that
depends on nothing but the patches, rounded once. Its bytes are therefore the same whatever was
applied and reverted before, and those of the base model if nothing is applied.
"""

from __future__ import annotations

import dataclasses
import datetime
import getpass
import html
import logging
import shlex
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from editkit.errors import LedgerError
from editkit.mistakes import expect_path
from editkit.patches.file_records import differences
from editkit.patches.ledger_base import (
    base_model,
    can_hold,
    copy_base,
    folder_of,
    is_same_model,
    write_model,
)
from editkit.patches.ledger_files import FORMAT, LedgerFolder, can_link
from editkit.patches.ledger_rules import (
    Given,
    disturbances,
    objections,
    objections_to_revert,
    refuse_unfit,
    remedies,
)
from editkit.patches.ledger_selection import PatchLike, as_list, given_patches, selected
from editkit.patches.ledger_state import (
    BaseModel,
    Description,
    LedgerEntry,
    LogLine,
    State,
    canonical,
    entries_of,
    fact_in_words,
    version_name,
)
from editkit.patches.patch import Patch
from editkit.storage.digests import file_blocks, sha256_of
from editkit.validation import text_problem

__all__ = ["Ledger"]

_log = logging.getLogger(__name__)


def _check_paths(folder: object, model: object, call: str) -> None:
    expect_path(folder, "folder", call, "the path of a folder")
    if model is not None:
        expect_path(model, "model", call, "a model's name, folder or file")


class Ledger:
    """The patches of one model, in a folder of plain files.

    ::

        ledger = Ledger("ledger", model="atlas")  # later: Ledger("ledger")
        ledger.apply(patch)
        ledger.model  # a folder for transformers, vLLM, ...
        ledger.revert(patch)

    Several processes may use a ledger at once. Every property reads the folder again.

    Args:
        folder: The ledger's folder; it is created if a model is given.
        model: The model, for a new ledger: a registered name, a folder, a GGUF file, or a hub id.
            For an existing one, it must be the same model; if the old place of its files does not
            exist any more, the new one is remembered.
        revision: Branch, tag or commit of a hub model.

    Raises:
        LedgerError: There is no ledger and no model is given, the ledger belongs to another model,
            or its files are damaged.
        ModelError: The model cannot be found or used.
    """

    def __init__(
        self, folder: str | Path, *, model: str | Path | None = None, revision: str | None = None
    ) -> None:
        _check_paths(folder, model, "Ledger(folder, model=...)")
        self.folder = Path(folder).absolute()
        self._files = LedgerFolder(self.folder)
        if not self._files.exists():
            if model is None:
                base = self._files.description().base  # raises if there is none
                raise LedgerError(
                    f"the ledger {str(self.folder)!r} was never finished.",
                    hint="Run the interrupted command again: 'editkit patch apply FILE --model "
                    f"{shlex.quote(base.name)} --ledger DIR', or Ledger(DIR, model=...).",
                )
            self._create(str(model), revision, [], None, force=False)
        elif model is not None:
            self._check_model(str(model), revision)
        else:
            self._files.description()

    @staticmethod
    def exists(folder: str | Path) -> bool:
        """Whether a folder is a ledger."""
        return LedgerFolder(Path(folder).absolute()).exists()

    @classmethod
    def create(
        cls,
        folder: str | Path,
        model: str | Path,
        patches: PatchLike | Sequence[PatchLike],
        *,
        revision: str | None = None,
        by: str | None = None,
        force: bool = False,
    ) -> Ledger:
        """A new ledger with its first patches: the model folder is written only once.

        Arguments and errors as for :class:`Ledger` and :meth:`apply`.
        """
        _check_paths(folder, model, "Ledger.create(folder, model, patches)")
        ledger = cls.__new__(cls)
        ledger.folder = Path(folder).absolute()
        ledger._files = LedgerFolder(ledger.folder)
        ledger._create(str(model), revision, as_list(patches), by, force=force)
        return ledger

    # ------------------------------------------------------------ what there is

    @property
    def base(self) -> BaseModel:
        """The unedited model."""
        return self._files.description().base

    @property
    def entries(self) -> tuple[LedgerEntry, ...]:
        """Every patch that was ever applied, by number."""
        return self._files.read().entries

    @property
    def applied(self) -> tuple[LedgerEntry, ...]:
        """The patches that are applied, by number."""
        return tuple(entry for entry in self.entries if entry.applied)

    def log(self) -> tuple[LogLine, ...]:
        """Who did what and when, oldest first."""
        return self._files.read().log

    @property
    def model(self) -> Path:
        """The folder of the model with the applied patches, for ``from_pretrained``.

        Its files never change. After the next action it is gone, and this is another folder.

        Raises:
            LedgerError: Something else than the ledger has changed the folder.
        """
        state = self._files.read()
        self._refuse_damage(state)
        return self._files.model(state)

    @property
    def link(self) -> Path:
        """The link to :attr:`model`; where links are not available, a file with its name."""
        return self._files.shown_model()

    def patch(self, which: int | PatchLike) -> Patch:
        """One of the patches, applied or not.

        Args:
            which: As for :meth:`revert`.
        """
        return Patch.of(self._load(selected(self._files.read().entries, which)).patch)

    def check(self) -> list[str]:
        """Read all files, and return what is damaged, a sentence each; nothing is an empty list."""
        try:
            state = self._files.read()
        except LedgerError as error:
            return [error.message.rstrip(".")]
        problems = differences(self._files.model(state), state.version.files, whole=True)
        for entry in state.entries:
            try:
                self._load(entry)
            except LedgerError as error:
                problems.append(error.message.rstrip("."))
        try:
            folder = folder_of(state.base, self._files.base)
            problems += differences(folder, state.base.files, whole=True, more=False)
        except LedgerError as error:
            problems.append(error.message.rstrip("."))
        return problems

    # ------------------------------------------------------------ what changes it

    def apply(
        self,
        patches: PatchLike | Sequence[PatchLike],
        *,
        by: str | None = None,
        force: bool = False,
    ) -> tuple[LedgerEntry, ...]:
        """Apply patches: all of them or, if one is refused, none.

        Args:
            patches: One or several; each a patch, a delta, or a patch file.
            by: Who applies them; None: ``user@host``.
            force: Apply patches that were made for another model or on top of patches that are not
                applied, that contradict others, or that are applied already. The log keeps what was
                overruled.

        Returns:
            Their entries.

        Raises:
            LedgerError: A patch is refused, or files are damaged or cannot be written. The ledger
                is as it was.
            DeltaError: A patch cannot be read, or does not fit the model's weights.
        """
        several = as_list(patches)
        with tempfile.TemporaryDirectory() as temporary:
            new = given_patches(several, Path(temporary))
            with self._files.alone():
                state = self._files.read()
                self._refuse_damage(state)
                lines, files = self._applying(state.base, state.log, new, _who(by), force=force)
                self._commit(state.base, state.log, state.log_text, lines, files)
        numbers = [line.number for line in lines]
        return tuple(entry for entry in self.entries if entry.number in numbers)

    def revert(
        self,
        patches: int | PatchLike | Sequence[int | PatchLike],
        *,
        by: str | None = None,
        force: bool = False,
    ) -> tuple[LedgerEntry, ...]:
        """Revert patches, in whatever order they were applied: all of them or none.

        Args:
            patches: One or several; each a number, the beginning of a digest, a patch, a delta, or
                a patch file.
            by: Who reverts them; None: ``user@host``.
            force: Revert patches that others were made on top of, which are then undefined.

        Returns:
            Their entries.

        Raises:
            LedgerError: A patch is not applied, others were made on top of it, or files are damaged
                or cannot be written. The ledger is as it was.
        """
        selectors = as_list(patches)
        with self._files.alone():
            state = self._files.read()
            self._refuse_damage(state)
            entries: dict[int, LedgerEntry] = {}
            for which in selectors:
                entry = selected(state.entries, which, applied=True, before=list(entries))
                entries[entry.number] = entry
            chosen = tuple(entries.values())
            against = list(objections_to_revert(chosen, state.applied))
            if against and not force:
                raise LedgerError(
                    f"{'; '.join(sentence for _, sentence in against)}.",
                    hint="Revert that patch first or at the same time. --force (force=True) "
                    "reverts anyway; the effect of the other patch is then undefined.",
                )
            who, now = _who(by), _now()
            lines = [
                LogLine(
                    now,
                    who,
                    "revert",
                    "",
                    number=entry.number,
                    digest=entry.digest,
                    facts=entry.facts,
                    forced=tuple(sentence for place, sentence in against if place == i),
                )
                for i, entry in enumerate(chosen)
            ]
            self._commit(state.base, state.log, state.log_text, lines, {})
        return tuple(entry for entry in self.entries if entry.number in entries)

    def rebuild(self, *, by: str | None = None) -> list[str]:
        """Write the model folder again if it, its record or its link is damaged.

        Returns:
            The damage that was repaired, which the log keeps; nothing is an empty list.

        Raises:
            LedgerError: The base model, an applied patch or the log is damaged.
        """
        with self._files.alone():
            salvaged = self._files.salvage()
            if salvaged.problems:
                line = LogLine(_now(), _who(by), "rebuild", "", repaired=salvaged.problems)
                base = salvaged.description.base
                self._commit(base, salvaged.log, salvaged.log_text, [line], {})
        return list(salvaged.problems)

    # ------------------------------------------------------------ how

    def _create(
        self,
        model: str,
        revision: str | None,
        patches: Sequence[PatchLike],
        by: str | None,
        *,
        force: bool,
    ) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise LedgerError(
                f"{str(self.folder)!r} is a file, expected a folder.", hint="Choose another name."
            )
        base = base_model(model, revision)
        who = _who(by)
        with tempfile.TemporaryDirectory() as temporary:
            new = given_patches(patches, Path(temporary))
            created = LogLine(_now(), who, "create", "")
            lines, files = self._applying(base, [], new, who, force=force)
            with self._files.alone():
                self._check_new(base)
                linked = can_link(self.folder)
                description = Description(FORMAT, "link" if linked else "file", base)
                self._commit(base, [], b"", [created, *lines], files, description)

    def _check_new(self, base: BaseModel) -> None:
        """Refuse a folder that has other things in it, or that is part of the model's own."""
        if self._files.exists():
            raise LedgerError(
                f"{str(self.folder)!r} is a ledger already.", hint="Leave out the model."
            )
        own = Path(base.path).resolve()
        if own == self.folder.resolve() or own in self.folder.resolve().parents:
            raise LedgerError(
                f"the ledger {str(self.folder)!r} is inside the model's own folder.",
                hint="Choose a folder outside: the original stays as it is.",
            )
        names = {"patches", "versions", ".lock"}
        if other := sorted(p.name for p in self.folder.iterdir() if p.name not in names):
            raise LedgerError(
                f"{str(self.folder)!r} is not empty, and not a ledger: it has {other[0]!r}.",
                hint="Choose a new or empty folder for the ledger.",
            )

    def _check_model(self, model: str, revision: str | None) -> None:
        """Refuse another model; remember the new place of one that was moved."""
        base = self.base
        files = is_same_model(base, model, revision)
        if files is None:
            at = f" at revision {revision}" if revision else ""
            raise LedgerError(
                f"the ledger {str(self.folder)!r} is for {base}, and {model!r}{at} is another "
                "model.",
                hint="Leave out the model, or choose another folder for a new ledger.",
            )
        old = Path(base.path)
        if not base.copied and files != old and differences(old, base.files, more=False):
            _log.info("the base model of %s is now %s", self.folder, files)
            with self._files.alone():
                description = self._files.description()
                moved = dataclasses.replace(description.base, path=str(files.absolute()))
                self._files.describe(dataclasses.replace(description, base=moved))

    def _refuse_damage(self, state: State) -> None:
        problems = differences(self._files.model(state), state.version.files)
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise LedgerError(
                f"something other than the ledger has changed its model folder: {problems[0]}"
                f"{more}.",
                hint="Copy the folder if you need it, then run 'editkit patch apply --rebuild "
                "--ledger DIR' (ledger.rebuild()).",
            )

    def _load(self, entry: LedgerEntry) -> Given:
        """A patch of the ledger, from its copy of the file.

        Raises:
            LedgerError: The copy is missing or was changed.
        """
        path = self._files.patches / entry.line.file
        try:
            changed = sha256_of(file_blocks(path)) != entry.line.sha256
        except OSError as error:
            changed, reason = True, f"cannot be read: {error.strerror or error}"
        else:
            reason = "has changed since it was applied"
        if changed:
            raise LedgerError(
                f"{path}, the ledger's copy of patch {entry}, {reason}.",
                hint="Copy the original file of the patch to that place.",
            )
        patch, line = Patch.load(path), entry.line
        return Given(patch, f"patch {entry}", path, line.sha256, line.digest, entry.number)

    def _applying(
        self,
        base: BaseModel,
        log: Sequence[LogLine],
        new: Sequence[Given],
        who: str,
        *,
        force: bool,
    ) -> tuple[list[LogLine], dict[str, Path]]:
        """The lines about patches to apply, and the files to copy by name.

        Raises:
            LedgerError: A patch is refused.
        """
        for given in new:
            refuse_unfit(given)
        entries = entries_of(log)
        applied = [self._load(entry) for entry in entries if entry.applied]
        against = list(objections(base, applied, new))
        if against and not force:
            hint = remedies(against, new)
            if can_hold(base, self._files.base, [given.patch for given in new]):
                hint += " --force (force=True) applies anyway; the log then keeps this reason."
            raise LedgerError(f"{'; '.join(each.sentence for each in against)}.", hint=hint)
        for sentence in disturbances(applied, new):
            _log.warning("%s", sentence)
        lines: list[LogLine] = []
        files: dict[str, Path] = {}
        free = {entry.number: entry.line for entry in entries if not entry.applied}
        number, now = len(entries), _now()
        for i, given in enumerate(new):
            forced = tuple(each.sentence for each in against if each.place == i)
            facts = fact_in_words(given.patch)
            origin = given.patch.origin
            earlier = next(
                (
                    n
                    for n, line in free.items()
                    if (line.digest, line.facts) == (given.digest, facts)
                ),
                None,
            )
            if earlier is not None:
                old = free.pop(earlier)
                lines.append(
                    dataclasses.replace(old, time=now, by=who, action="apply", forced=forced)
                )
                continue
            number += 1
            file = f"{number:04d}-{given.digest[:12]}.safetensors"
            if given.path is None:
                raise AssertionError("a patch without a file")
            files[file] = given.path
            lines.append(
                LogLine(
                    now,
                    who,
                    "apply",
                    "",
                    number=number,
                    digest=given.digest,
                    facts=facts,
                    editor=given.patch.editor,
                    created=None if origin is None else origin.created,
                    file=file,
                    sha256=given.sha256,
                    made_on=given.made_on,
                    forced=forced,
                )
            )
        return lines, files

    def _commit(
        self,
        base: BaseModel,
        log: Sequence[LogLine],
        log_text: bytes,
        lines: Sequence[LogLine],
        files: dict[str, Path],
        description: Description | None = None,
    ) -> None:
        """Build the model folder that follows from the log with more lines, and serve it."""
        serial = 1 + max((int(line.version.partition("-")[0]) for line in log), default=0)
        now = entries_of([*log, *lines])
        applied = canonical([entry for entry in now if entry.applied])
        name = version_name(serial, base.fingerprint, applied)

        def build(target: Path) -> None:
            folder = folder_of(base, self._files.base)
            write_model(base, folder, [self._load(entry).patch for entry in applied], target)

        self._files.change(
            name,
            log_text=log_text,
            lines=[dataclasses.replace(line, version=name) for line in lines],
            applied=applied,
            build=build,
            new_files=files,
            description=description,
            copy_base=(
                (lambda target: copy_base(base, target)) if description and base.copied else None
            ),
        )

    # ------------------------------------------------------------ shown

    def __repr__(self) -> str:
        try:
            state = self._files.read()
        except LedgerError as error:
            return f"<Ledger {str(self.folder)!r}: {error.message}>"
        n, total = len(state.applied), len(state.entries)
        return f"<Ledger {str(self.folder)!r}: {n} of {total} patches applied to {state.base}>"

    def _repr_html_(self) -> str:
        try:
            state = self._files.read()
        except LedgerError as error:
            return f"<p>{html.escape(error.message)}</p>"
        return "".join(_html(self.folder, state))


def _html(folder: Path, state: State) -> Iterator[str]:
    yield f"<p>Ledger {html.escape(str(folder))}, model {html.escape(str(state.base))}</p>"
    yield "<table><tr>"
    yield "".join(
        f"<th>{title}</th>" for title in ("no.", "state", "when", "who", "fact", "editor")
    )
    yield "</tr>"
    for entry in state.entries:
        last = entry.reverted or entry.line
        cells = (
            str(entry.number),
            "applied" if entry.applied else "reverted",
            last.time,
            last.by,
            entry.fact,
            entry.line.editor,
        )
        yield "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
    yield "</table>"


def _who(by: str | None) -> str:
    if by is not None:
        name = " ".join(by.split())
        if not name or text_problem(name):
            raise LedgerError(
                f"the name of who does this is {by!r:.80}, expected a text.",
                hint="Give a name, or none.",
            )
        return name
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without users
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
