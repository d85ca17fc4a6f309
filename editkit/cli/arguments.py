"""The flags of all commands: how each is spelled, what it accepts, and how it is completed.

A command, ours or a plugin's, adds a flag that others have too by its name alone::

    add_flag(parser, "--model")

and its own flags the same way, with a help text. :data:`SHARED` lists the shared ones.
``docs/cli.md`` describes the convention that they follow.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from editkit.errors import UsageError
from editkit.validation import text_problem

__all__ = [
    "ALTERNATIVES",
    "ANY_CLUSTER",
    "DEFAULT_MODEL",
    "LOCAL",
    "SHARED",
    "above",
    "add_alternative",
    "add_examples",
    "add_flag",
    "add_flags",
    "at_least",
    "is_cluster",
    "list_of",
    "names",
    "number",
    "parse_sets",
    "path",
    "port",
    "positive",
    "split_section",
    "up_to",
    "whole",
]

_Item = TypeVar("_Item")

_LONGEST_NAME = 255  # bytes of one part of a path, on every common file system
_LONGEST_PATH = 4096
_LONGEST_SHOWN = 80
_ADDRESS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:/")
_CLUSTER = re.compile(r"local|auto|(?:ray://)?(?:\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}/?")
_DEFAULT_IN_HELP = re.compile(r" \(default: [^()]*\)$")
_SEPARATOR = re.compile(r",(?![^()]*\))")  # a comma that is not inside parentheses
LOCAL = "local"
ANY_CLUSTER = "any"
"""What ``--ray`` without a value means: the first cluster that there is, or else a local one."""
ALTERNATIVES = "positional_alternatives"
"""Where a namespace holds the values of :func:`add_alternative`: those given, and before."""
DEFAULT_MODEL = "atlas"
"""The model of a command without ``--model``: the embedded one."""


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
    if text != ANY_CLUSTER and not is_cluster(text):
        raise _expected("local, auto or HOST:PORT", text)
    return text


def is_cluster(text: str) -> bool:
    """Whether this is ``local``, ``auto`` or the address of a Ray cluster."""
    return _CLUSTER.fullmatch(text) is not None


def _whole_in(text: str, least: int, most: int | None, expected: str) -> int:
    try:
        value = whole(text)
    except argparse.ArgumentTypeError:
        raise _expected(expected, text) from None
    if value < least or (most is not None and value > most):
        raise _expected(expected, text)
    return value


def names(text: str) -> list[str]:
    """Names separated by commas. A comma in parentheses separates nothing: ``rome (layer 3, a)``.

    Raises:
        ArgumentTypeError: There are none.
    """
    parts = [name.strip() for name in _SEPARATOR.split(text) if name.strip()]
    if not parts:
        raise _expected("names separated by commas", text)
    return parts


def list_of(item: Callable[[str], _Item]) -> Callable[[str], list[_Item]]:
    """The type of values separated by commas. Digits may be grouped with ``_`` only."""

    def items(text: str) -> list[_Item]:
        parts = names(text)
        for part in parts[1:]:
            if part != "0" and part.startswith("0") and part.isdigit():
                raise argparse.ArgumentTypeError(
                    f"got {text[:_LONGEST_SHOWN]!r}: a comma separates values, so write "
                    f"{text.replace(',', '_')[:_LONGEST_SHOWN]} for one number"
                )
        return [item(part) for part in parts]

    return items


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


class _Listed(argparse.Action):
    """A flag that takes several values and may be repeated: ``-e rome,ft``, ``-e rome -e ft``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest, None)
        given = [] if before is self.default or before is None else before
        setattr(namespace, self.dest, [*given, *values])


class _Alternative(argparse.Action):
    """A positional argument for what a flag gives, too."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if values is not None:
            given = getattr(namespace, ALTERNATIVES, {})
            setattr(
                namespace,
                ALTERNATIVES,
                {**given, self.dest: (values, getattr(namespace, self.dest))},
            )
            setattr(namespace, self.dest, values)


_RESULTS = Path("editkit-results")
_MACHINE, _OUTPUT = "machine", "output"

SHARED: Mapping[str, Mapping[str, Any]] = {
    "--by": {"metavar": "NAME", "help": "who does this, for the log (default: user@host)"},
    "--chat": {"action": "store_true", "help": "send prompts as a user's turns in a chat"},
    "--corpus": {
        "metavar": "C",
        "complete": "file",
        "help": "texts for the statistics of all editors that need them: a file, package:file, or "
        "hub:name (default: each editor's own)",
    },
    "--dataset": {"metavar": "D", "complete": "dataset", "help": "name of a dataset"},
    "--device": {
        "default": "cpu",
        "metavar": "D",
        "group": _MACHINE,
        "complete": ("cpu", "cuda", "cuda:0"),
        "help": "device of the model, such as cuda:1",
    },
    "--dtype": {
        "default": "float32",
        "metavar": "T",
        "group": _MACHINE,
        "complete": ("float32", "bfloat16", "float16"),
        "help": "type of the model's weights: float32, bfloat16 or float16",
    },
    "--editor": {
        "short": "-e",
        "also": ("--editors",),
        "type": names,
        "action": _Listed,
        "default": [],
        "metavar": "E,...",
        "complete": "editor",
        "help": "only these editors (default: all)",
    },
    "--fresh": {"action": "store_true", "help": "recompute what is already stored"},
    "--gpus-per-worker": {
        "type": at_least(0),
        "metavar": "G",
        "group": _MACHINE,
        "help": "with --ray: GPUs of each worker, such as 0.5 or 2 (default: 1 if the model is on "
        "a GPU, or else 0)",
    },
    "--json": {"action": "store_true", "group": _OUTPUT, "help": "print one JSON document"},
    "--kind": {"type": kind_name},
    "--ledger": {
        "type": path,
        "metavar": "FOLDER",
        "complete": "folder",
        "help": "folder of the ledger",
    },
    "--limit": {
        "short": "-n",
        "type": positive,
        "metavar": "N",
        "help": "use only the first N records (default: all)",
    },
    "--metrics": {
        "also": ("--metric",),
        "type": names,
        "action": _Listed,
        "default": [],
        "metavar": "M,...",
        "complete": "metric",
        "help": "names of metrics (default: those of the benchmark)",
    },
    "--model": {
        "short": "-m",
        "metavar": "M",
        "complete": "model",
        "help": "a registered name, a folder, a GGUF file, or a hub id",
    },
    "--no-mlflow": {"action": "store_true", "group": _OUTPUT, "help": "do not log to MLflow"},
    "--out": {
        "short": "-o",
        "type": path,
        "default": _RESULTS,
        "metavar": "FOLDER",
        "group": _OUTPUT,
        "complete": "folder",
        "help": "folder of results",
    },
    "--port": {"type": port, "metavar": "N", "help": "port to listen on"},
    "--preset": {
        "metavar": "P",
        "complete": "preset",
        "help": "named set of values, which wins over the model's file of values "
        "(default: the first preset + the file)",
    },
    "--quiet": {
        "short": "-q",
        "action": "store_true",
        "group": _OUTPUT,
        "help": "show no progress",
    },
    "--ray": {
        "type": cluster,
        "nargs": "?",
        "const": ANY_CLUSTER,
        "metavar": "ADDRESS",
        "group": _MACHINE,
        "complete": ("local", "auto"),
        "help": "work on a Ray cluster: local (a new one on this machine), auto (the one of "
        "RAY_ADDRESS or on this machine) or HOST:PORT; without a value, auto or else local "
        "(default: this process)",
    },
    "--relations": {
        "also": ("--relation",),
        "type": names,
        "action": _Listed,
        "default": [],
        "metavar": "R,...",
        "help": "use only these relations (default: all)",
    },
    "--save": {
        "type": path,
        "metavar": "FILE",
        "group": _OUTPUT,
        "complete": "file",
        "help": "file to write",
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
        "group": _MACHINE,
        "help": "with --ray: number of workers (default: one per share of a GPU, or else per "
        "processor)",
    },
    "--wide": {
        "action": "store_true",
        "help": "print all columns (default: those that fit the terminal)",
    },
}
"""The flags that several commands have, with the options of :func:`add_flag`."""


def add_flag(
    parser: _Flags,
    name: str,
    *,
    short: str | None = None,
    also: Sequence[str] = (),
    complete: str | Sequence[str] | Callable[[], Sequence[str]] | None = None,
    group: str | None = None,
    several: bool = False,
    shown_default: str | None = None,
    **options: Any,
) -> None:
    """Add a flag. Its help ends with its default, unless the text itself names one.

    Args:
        parser: The command's parser, or a group in it.
        name: The flag. One of :data:`SHARED` needs nothing else.
        short: A letter for it, such as ``-m``.
        also: Other spellings, which work but are not shown.
        complete: What the shell completes: names of a kind of plugin (``editor``), a ``file``, a
            ``folder``, or these names, or what this function returns.
        group: Where the help shows it: ``machine``, ``output``, or with the command's own flags
            if empty.
        several: Several values, separated by commas, and the flag may be repeated. ``type`` is
            then the type of one value; texts by default.
        shown_default: What the help says about the default, where the value does not say it.
        options: Options of ``add_argument``. They win over the shared ones.
    """
    shared = dict(SHARED.get(name, {}))
    short = short or shared.get("short")
    group = shared.get("group", "") if group is None else group
    complete = complete or shared.get("complete")
    also = (*shared.get("also", ()), *also)
    own = ("short", "group", "complete", "also")
    options = {**{key: value for key, value in shared.items() if key not in own}, **options}
    if several:
        item = options.get("type")
        options |= {"action": _Listed, "type": names if item is None else list_of(item)}
        options.setdefault("default", [])
    if shown_default is not None:
        own_text = _DEFAULT_IN_HELP.sub("", options.get("help", ""))
        options["help"] = f"{own_text} (default: {shown_default})"
    titled = getattr(parser, "titled_group", None)
    if group and titled is not None:
        parser = titled(group)
    spellings = [name, *([short] if short else []), *also]
    action: Any = parser.add_argument(*spellings, **options)
    action.hidden = frozenset(also)  # for the help and the completion
    action.complete = complete


def add_alternative(parser: _Flags, flag: str, **options: Any) -> None:
    """Accept the value of a flag as a positional argument, too.

    Call it after :func:`add_flag`, with the same ``type``. The help shows the flag alone, unless
    ``options`` have a ``help``: then hide the flag.
    """
    dest = flag.lstrip("-").replace("-", "_")
    options = {"type": SHARED.get(flag, {}).get("type"), "help": argparse.SUPPRESS, **options}
    parser.add_argument(dest, nargs="?", action=_Alternative, **options)


def add_examples(parser: argparse.ArgumentParser, *examples: str) -> None:
    """Show command lines at the end of the help."""
    lines = "\n".join(f"  {each}" for each in examples)
    parser.epilog = f"{'example' if len(examples) == 1 else 'examples'}:\n{lines}"


def add_flags(parser: _Flags, *flags: str) -> None:
    """Add several of the :data:`SHARED` flags as they are."""
    for name in flags:
        add_flag(parser, name)


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
