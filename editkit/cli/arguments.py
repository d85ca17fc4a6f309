"""The flags of all commands: how each is spelled, what it accepts, and what its errors say.

A command, ours or a plugin's, adds a flag that others have too by its name alone::

    add_flag(parser, "--model", required=True)

and its own flags the same way, with a help text. :data:`SHARED` lists the shared ones.
"""

from __future__ import annotations

import argparse
import itertools
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from typing_extensions import override

from editkit.errors import EditkitError, UsageError
from editkit.validation import text_problem

__all__ = [
    "ANY_CLUSTER",
    "LOCAL",
    "SHARED",
    "Parser",
    "add_flag",
    "add_flags",
    "at_least",
    "names",
    "number",
    "parse_sets",
    "path",
    "port",
    "positive",
    "split_section",
]

_LONGEST_NAME = 255  # bytes of one part of a path, on every common file system
_LONGEST_PATH = 4096
_LONGEST_SHOWN = 80
_CHOICE = re.compile(r"invalid choice: (.*) \(choose from (.*)\)", re.DOTALL)
_ADDRESS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:/")
_CLUSTER = re.compile(r"local|auto|(?:ray://)?(?:\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}/?")
LOCAL = "local"
ANY_CLUSTER = "any"
"""What ``--ray`` without a value means: the first cluster that there is, or else a local one."""


# ---------------------------------------------------------------- types


def whole(text: str) -> int:
    """A whole number; digits may be grouped, as in ``100_000`` or ``100,000``.

    Raises:
        ArgumentTypeError: It is something else.
    """
    try:
        return int(text.replace("_", "").replace(",", ""))
    except ValueError:
        raise _expected("a whole number", text) from None


def at_least(least: float) -> Callable[[str], float]:
    """The type of numbers from ``least`` up."""

    def number_at_least(text: str) -> float:
        value = number(text)
        if value < least:
            raise _expected(f"{least:g} or more", text)
        return value

    return number_at_least


def above(least: float) -> Callable[[str], float]:
    """The type of numbers above ``least``."""

    def number_above(text: str) -> float:
        value = number(text)
        if value <= least:
            raise _expected(f"a number above {least:g}", text)
        return value

    return number_above


def number(text: str) -> float:
    """A finite number.

    Raises:
        ArgumentTypeError: It is something else.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _expected("a number", text)
    return value


def positive(text: str) -> int:
    """A whole number above 0; raises ArgumentTypeError for anything else."""
    return _whole_in(text, 1, None, "a whole number above 0")


def up_to(most: int) -> Callable[[str], int]:
    """The type of whole numbers from 1 to ``most``."""

    def whole_up_to(text: str) -> int:
        return _whole_in(text, 1, most, f"a whole number from 1 to {most:,}")

    return whole_up_to


def port(text: str) -> int:
    """A TCP port, 0 for any free one; raises ArgumentTypeError for anything else."""
    return _whole_in(text, 0, 2**16 - 1, "a port from 0 to 65535")


def cluster(text: str) -> str:
    """The address of a Ray cluster; raises ArgumentTypeError for anything else."""
    if text != ANY_CLUSTER and not _CLUSTER.fullmatch(text):
        raise _expected("local, auto or HOST:PORT", text)
    return text


def _whole_in(text: str, least: int, most: int | None, expected: str) -> int:
    try:
        value = whole(text)
    except argparse.ArgumentTypeError:
        raise _expected(expected, text) from None
    if value < least or (most is not None and value > most):
        raise _expected(expected, text)
    return value


def names(text: str) -> list[str]:
    """Names separated by commas.

    Raises:
        ArgumentTypeError: There are none.
    """
    parts = [name.strip() for name in text.split(",") if name.strip()]
    if not parts:
        raise _expected("names separated by commas", text)
    return parts


def whole_numbers(text: str) -> list[int]:
    """Whole numbers separated by commas.

    Raises:
        ArgumentTypeError: There are none, or one is something else.
    """
    try:
        return [int(part) for part in names(text)]
    except ValueError:
        raise _expected("whole numbers separated by commas", text) from None


def kind_name(text: str) -> str:
    """A kind of plugin, spelt with ``-`` or ``_``: ``model-metric``."""
    return text.replace("-", "_")


def path(text: str) -> Path:
    """A path that a file can have.

    Raises:
        ArgumentTypeError: It is empty, too long, an address, or holds a character that no path can.
    """
    if not text:
        raise _expected("a path", text)
    if problem := text_problem(text):
        raise argparse.ArgumentTypeError(f"{text[:_LONGEST_SHOWN]!r} is not a path: {problem}")
    if _ADDRESS.match(text):  # as a path it would lose a slash, and its password would be shown
        raise argparse.ArgumentTypeError(f"{text!r} is an address, expected a path")
    size = len(text.encode())
    longest = max(len(part.encode()) for part in text.split("/"))
    if longest > _LONGEST_NAME or size > _LONGEST_PATH:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r}... is not a path: it has {size} bytes, and its longest part {longest}"
        )
    return Path(text)


def _expected(what: str, text: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"got {text[:_LONGEST_SHOWN]!r}, expected {what}")


# ---------------------------------------------------------------- flags


class _Flags(Protocol):
    """A parser, or a group of its arguments."""

    def add_argument(self, *name_or_flags: str, **options: Any) -> argparse.Action: ...


_RESULTS = Path("editkit-results")

SHARED: Mapping[str, Mapping[str, Any]] = {
    "out": {
        "type": path,
        "nargs": "?",
        "default": _RESULTS,
        "metavar": "OUT",
        "help": "folder of results",
    },
    "--by": {"metavar": "NAME", "help": "who does this, for the log (default: user@host)"},
    "--chat": {"action": "store_true", "help": "send prompts as a user's turns in a chat"},
    "--corpus": {
        "metavar": "C",
        "help": "texts for the statistics of all editors that need them: a file, package:file, or "
        "hub:name",
    },
    "--dataset": {"metavar": "D", "help": "name of a dataset"},
    "--device": {"default": "cpu", "metavar": "D", "help": "device of the model, such as cuda:1"},
    "--dtype": {
        "default": "float32",
        "metavar": "T",
        "help": "type of the model's weights: float32, bfloat16 or float16",
    },
    "--editor": {
        "action": "append",
        "default": [],
        "metavar": "E",
        "help": "only this editor; repeatable",
    },
    "--fresh": {"action": "store_true", "help": "recompute what is already stored"},
    "--gpus-per-worker": {
        "type": at_least(0),
        "metavar": "G",
        "help": "with --ray: GPUs of each worker, such as 0.5 or 2 (default: 1 if the model is on "
        "a GPU, or else 0)",
    },
    "--json": {"action": "store_true", "help": "print one JSON document"},
    "--kind": {"type": kind_name},
    "--ledger": {"type": path, "metavar": "DIR", "help": "folder of the ledger"},
    "--limit": {"type": positive, "metavar": "N", "help": "use only the first N records"},
    "--model": {"metavar": "M", "help": "a registered name, a folder, or a hub id"},
    "--no-mlflow": {"action": "store_true", "help": "do not log to MLflow"},
    "--out": {"type": path, "default": _RESULTS, "metavar": "DIR", "help": "folder of results"},
    "--port": {"type": port, "metavar": "N", "help": "port to listen on"},
    "--preset": {"metavar": "P", "help": "named set of values to start from"},
    "--quiet": {"action": "store_true", "help": "show no progress"},
    "--ray": {
        "type": cluster,
        "nargs": "?",
        "const": ANY_CLUSTER,
        "metavar": "ADDRESS",
        "help": "work on a Ray cluster: local (a new one on this machine), auto (the one of "
        "RAY_ADDRESS or on this machine) or HOST:PORT; without a value, auto or else local",
    },
    "--seed": {"type": whole, "default": 0, "metavar": "S", "help": "seed of everything random"},
    "--separator": {
        "metavar": "TEXT",
        "help": "text between prompt and answer (default: chosen from the script and the prompt)",
    },
    "--set": {
        "action": "append",
        "default": [],
        "dest": "sets",
        "metavar": "A.B=V",
        "help": "set one value; repeatable",
    },
    "--workers": {
        "type": positive,
        "metavar": "N",
        "help": "with --ray: number of workers (default: one per share of a GPU, or else per "
        "processor)",
    },
    "--wide": {
        "action": "store_true",
        "help": "print all columns (default: those that fit the terminal)",
    },
}
"""The arguments that several commands have, with the options of ``add_argument``."""


def add_flag(parser: _Flags, name: str, **options: Any) -> None:
    """Add a flag; its default is appended to its help.

    Args:
        parser: The command's parser, or a group in it.
        name: The flag. One of :data:`SHARED` needs nothing else.
        options: Options of ``add_argument``, which win over the shared ones.
    """
    options = {**SHARED.get(name, {}), **options}
    if options.get("default") not in (None, False, []) and "%(default)" not in options["help"]:
        options["help"] += " (default: %(default)s)"
    parser.add_argument(name, **options)


def add_flags(parser: _Flags, *flags: str) -> None:
    """Add several of the :data:`SHARED` flags as they are."""
    for name in flags:
        add_flag(parser, name)


class Parser(argparse.ArgumentParser):
    """A parser with our types and errors.

    ``type=int``, ``type=float`` and ``type=Path`` mean :func:`whole`, :func:`number` and
    :func:`path`, whoever declares the argument.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._after_ray = ""
        for given, ours in ((int, whole), (float, number), (Path, path)):
            self.register("type", given, ours)

    @override
    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As the base class, but ``--ray atlas`` leaves ``atlas`` to the positional arguments."""
        given = list(sys.argv[1:] if args is None else args)
        for i, (flag, following) in enumerate(itertools.pairwise([*given, "--"])):
            if flag == "--":
                break
            if flag == "--ray" and not _CLUSTER.fullmatch(following):
                given[i] = f"--ray={ANY_CLUSTER}"
                self._after_ray = following
        return super().parse_known_args(given, namespace)

    @override
    def error(self, message: str) -> NoReturn:
        """Raise what is wrong with the arguments, in the form that all our errors have.

        Raises:
            UsageError: Always.
        """
        message = message.removeprefix("argument ")
        message = _CHOICE.sub(r"got \1, expected one of \2", message)
        error = UsageError(f"{message}.", hint=f"'{self.prog} --help' lists the arguments.")
        raise self.explained(error)

    def explained(self, error: EditkitError) -> EditkitError:
        """The error, with a hint if it may be about an address that ``--ray`` did not take.

        ``--ray node7`` leaves ``node7`` to the positional arguments: the error is then that there
        is no benchmark with this name.
        """
        word = self._after_ray
        refused = re.search(r"\bno \w+|\bnot \w+|\bunrecognized\b", error.message)
        if word and refused and re.search(rf"(?<!\w){re.escape(word)}(?!\w)", error.message):
            error.hint = (
                f"{error.hint or ''} If {word!r} was meant for --ray: it takes local, auto or "
                "HOST:PORT."
            ).strip()
        return error


def check_texts(args: argparse.Namespace) -> None:
    """Refuse texts that no file, model or result can hold.

    Raises:
        UsageError: A text holds a NUL or is not valid Unicode.
    """
    for name, value in vars(args).items():
        for text in _texts(value):
            if problem := text_problem(text):
                raise UsageError(
                    f"--{name.replace('_', '-')}: {text[:_LONGEST_SHOWN]!r}: {problem}.",
                    hint="Write it as plain UTF-8 text.",
                )


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts(item)]
    return []


# ---------------------------------------------------------------- --set


def parse_sets(assignments: Sequence[str]) -> dict[str, Any]:
    """The values that ``--set a.b=v`` gives, by dotted name; a later one wins.

    Args:
        assignments: What follows each ``--set``. The value is YAML: ``2``, ``true``, ``[1, 2]``.

    Raises:
        UsageError: There is no ``=``, or part of the name is empty.
        ConfigError: The value is not YAML.
    """
    from editkit.storage.strict_yaml import parse_yaml

    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip()
        if not equals or not all(name.split(".")):
            raise UsageError(
                f"--set: got {assignment[:_LONGEST_SHOWN]!r}, expected a.b=value.",
                hint="For example --set layer=2; 'editkit describe NAME' lists the names.",
            )
        values.pop(name, None)
        values[name] = parse_yaml(text, place=f"--set {name}")
    return values


def split_section(values: Mapping[str, Any], section: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values by dotted name, those of a section apart.

    Returns:
        The other values, and those whose names begin with ``section.``, without it.
    """
    prefix = f"{section}."
    inside = {name: value for name, value in values.items() if name.startswith(prefix)}
    others = {name: value for name, value in values.items() if name not in inside}
    return others, {name.removeprefix(prefix): value for name, value in inside.items()}
