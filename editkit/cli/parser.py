"""The parser of every command: its help, its errors, and its suggestions for misspelt flags."""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from typing_extensions import override

from editkit.cli.arguments import ALTERNATIVES, ANY_CLUSTER, is_cluster, number, path, whole
from editkit.errors import EditkitError, UsageError, did_you_mean

__all__ = ["HelpFormatter", "Parser", "UnknownFlag", "visible_spellings"]

_CHOICE = re.compile(r"invalid choice: (.*?) \(choose from (.*)\)", re.DOTALL)
_SPELLINGS = re.compile(r"(--[\w-]+)(?:/--?[\w-]+)+")  # "--model/-m", as argparse names a flag
_NUMBER = re.compile(r"-\d+|-\d*\.\d+")
_WIDEST = 100
_GROUPS = ("machine", "output")  # in this order, below a command's own flags
_ELSEWHERE = {  # what other tools and habits call our flags
    "--output": "--out",
    "--output-dir": "--out",
    "--output-path": "--out",
    "--option": "--set",
    "--model-args": "--set",
    "--hparams": "--set",
    "--method": "--editor",
    "--alg-name": "--editor",
    "--verbose": "--debug",
    "--num-samples": "--limit",
}


class UnknownFlag(UsageError):
    """A flag that the command does not have."""

    def __init__(self, flag: str, prog: str, *, hint: str | None) -> None:
        super().__init__(f"{prog} has no flag {flag[:80]!r}.", hint=hint)
        self.flag = flag
        self.command = prog.removeprefix("editkit ").partition(" ")[0]


def visible_spellings(action: argparse.Action) -> list[str]:
    """The spellings of a flag that the help shows, the short one first."""
    hidden: frozenset[str] = getattr(action, "hidden", frozenset())
    spellings = [each for each in action.option_strings if each not in hidden]
    return sorted(spellings, key=lambda each: each.startswith("--"))


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help with one line per flag, ``-m, --model M``, and each default at the end of its text."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **{"max_help_position": 28, **options})
        self._width = min(self._width, _WIDEST)

    @override
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Paragraphs filled to the width; one with an indented line stays as it is."""
        filled = []
        for paragraph in text.split("\n\n"):
            if any(line.startswith(" ") for line in paragraph.splitlines()):
                filled.append(textwrap.indent(paragraph, indent))
            else:
                own: dict[str, Any] = {"initial_indent": indent, "subsequent_indent": indent}
                filled.append(textwrap.fill(paragraph, width, break_on_hyphens=False, **own))
        return "\n\n".join(filled)

    @override
    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    @override
    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        spellings = visible_spellings(action)
        indent = "    " if spellings[0].startswith("--") else ""
        text = indent + ", ".join(spellings)
        if action.nargs == 0:
            return text
        return f"{text} {self._format_args(action, action.dest.upper())}"

    @override
    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if "(default" in text or "%(default)" in text:
            return text
        shown = _shown_default(action)
        return f"{text} (default: {shown})" if shown else text


def _shown_default(action: argparse.Action) -> str:
    """The default of an argument as its help shows it; empty if there is none to show."""
    default = action.default
    if action.nargs == 0 or default in (None, argparse.SUPPRESS, "") or default == []:
        return ""
    if isinstance(default, list | tuple):
        default = ",".join(map(str, default))
    text = f"{default:g}" if isinstance(default, float) else str(default)
    return text.replace("%", "%%")


class Parser(argparse.ArgumentParser):
    """A parser with our types, help and errors.

    ``type=int``, ``type=float`` and ``type=Path`` mean :func:`~editkit.cli.arguments.whole`,
    :func:`~editkit.cli.arguments.number` and :func:`~editkit.cli.arguments.path`, whoever declares
    the argument. Flags cannot be abbreviated.
    """

    def __init__(self, **options: Any) -> None:
        options = {"formatter_class": HelpFormatter, "allow_abbrev": False, **options}
        super().__init__(**{**options, "add_help": False})
        self._after_ray = ""
        self._titled: dict[str, Any] = {}
        self._positionals.title = "arguments"
        self._optionals.title = "flags"
        for given, ours in ((int, whole), (float, number), (Path, path)):
            self.register("type", given, ours)
        if options.get("add_help", True):
            output = self.titled_group("output")
            output.add_argument("-h", "--help", action="help", help="show this help")

    def titled_group(self, title: str) -> Any:
        """The group of flags with this title, made at its first use."""
        if title not in self._titled:
            self._titled[title] = self.add_argument_group(title)
        return self._titled[title]

    # ---------------------------------------------------------------- help

    @override
    def format_usage(self) -> str:
        formatter = self._get_formatter()
        formatter.add_usage(self._short_usage(), self._actions, [])
        return formatter.format_help()

    @override
    def format_help(self) -> str:
        formatter = self._get_formatter()
        formatter.add_usage(self._short_usage(), self._actions, [])
        formatter.add_text(self.description)
        groups = sorted(self._action_groups, key=_place_of)
        for group in groups:
            formatter.start_section(group.title)
            formatter.add_text(group.description)
            formatter.add_arguments(_in_order(group._group_actions))
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def _short_usage(self) -> str:
        """The positional arguments and the required flags; ``[flags]`` stands for the others."""
        if self.usage is not None:
            return self.usage
        shown = [each for each in self._actions if each.help is not argparse.SUPPRESS]
        formatter = self._get_formatter()
        positional = [_usage_of(each, formatter) for each in shown if not each.option_strings]
        required = [
            f"{each.option_strings[0]} {formatter._format_args(each, each.dest.upper())}"
            for each in shown
            if each.option_strings and each.required
        ]
        parts = [self.prog, *positional, *required, "[flags]"]
        return " ".join(parts).replace("%", "%%")

    # ---------------------------------------------------------------- parsing

    @override
    def parse_known_args(  # type: ignore[override]  # overloads by the type of the namespace
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As the base class, but ``--ray atlas`` leaves ``atlas`` to the positional arguments.

        Raises:
            UsageError: A flag does not exist, or an argument is wrong.
        """
        given = list(sys.argv[1:] if args is None else args)
        for i, (flag, following) in enumerate(itertools.pairwise([*given, "--"])):
            if flag == "--":
                break
            if flag == "--ray" and not is_cluster(following):
                given[i] = f"--ray={ANY_CLUSTER}"
                self._after_ray = following
        self._check_flags(given)
        known, rest = super().parse_known_args(given, namespace)
        for dest, (value, before) in getattr(known, ALTERNATIVES, {}).items():
            flagged = before if before != self.get_default(dest) else getattr(known, dest)
            if flagged != value:
                name = f"--{dest.replace('_', '-')}"
                self.error(f"argument {name}: given twice: {str(value)!r} and {str(flagged)!r}")
        return known, rest

    def _check_flags(self, given: Sequence[str]) -> None:
        """Refuse the first flag that does not exist, before anything that is missing.

        Raises:
            UnknownFlag: There is one.
        """
        nested = any(isinstance(each, argparse._SubParsersAction) for each in self._actions)
        for i, text in enumerate(given):
            if text == "--" or (nested and not text.startswith("-")):
                return
            if len(text) < 2 or not text.startswith("-") or _NUMBER.fullmatch(text) or " " in text:
                continue
            flag = text.partition("=")[0]
            known = self._option_string_actions
            if flag in known:
                continue
            if not flag.startswith("--") and flag[:2] in known and f"-{flag}" not in known:
                continue  # -n5, -qn 5
            hint = self._suggestion(flag)
            before = known.get(given[i - 1]) if i else None
            if hint is None and before is not None and before.nargs != 0:
                hint = f"If {text!r} is the value of {given[i - 1]}: write {given[i - 1]}={text}"
            raise UnknownFlag(flag, self.prog, hint=hint)

    def _suggestion(self, flag: str) -> str | None:
        long = f"--{flag.lstrip('-')}".replace("_", "-")
        known = {
            spelling: visible_spellings(action)[-1]
            for spelling, action in self._option_string_actions.items()
            if spelling.startswith("--") and action.help is not argparse.SUPPRESS
        }
        known["--debug"] = "--debug"
        meant = _ELSEWHERE.get(long, long)
        if meant in known:
            return f"Did you mean {known[meant]!r}?"
        longer = [each for each in known.values() if each.startswith(long)]
        if len(set(longer)) == 1 and len(long) > len("--x"):
            return f"Did you mean {longer[0]!r}? Flags cannot be abbreviated."
        return did_you_mean(long, known.values()) if len(flag) > len("-x") else None

    @override
    def error(self, message: str) -> NoReturn:
        """Raise what is wrong with the arguments, in the form that all our errors have.

        Raises:
            UsageError: Always.
        """
        message = _SPELLINGS.sub(r"\1", message.removeprefix("argument "))
        hint = f"'{self.prog} --help' lists the arguments."
        if choice := _CHOICE.search(message):
            value, choices = choice.groups()
            hint = did_you_mean(value.strip("'\""), re.findall(r"[\w.+-]+", choices)) or hint
            message = _CHOICE.sub(r"got \1, expected one of \2", message)
        message = f"{message.removesuffix('.')}{'' if message.endswith('?') else '.'}"
        raise self.explained(UsageError(message, hint=hint))

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


def _place_of(group: Any) -> int:
    return 1 + _GROUPS.index(group.title) if group.title in _GROUPS else 0


def _in_order(actions: Iterable[argparse.Action]) -> Iterator[argparse.Action]:
    """The actions, with ``--debug`` and ``--help`` at the end."""
    actions = list(actions)
    last = [each for each in actions if each.dest in ("debug", "help")]
    yield from (each for each in actions if each not in last)
    yield from sorted(last, key=lambda each: each.dest)


def _usage_of(action: argparse.Action, formatter: argparse.HelpFormatter) -> str:
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices is not None and action.metavar is None:
        metavar = "|".join(map(str, action.choices))
    if action.nargs == "?":
        return f"[{metavar}]"
    if isinstance(action, argparse._SubParsersAction):
        return metavar
    if action.nargs == "+":
        return f"{metavar}..."
    if action.nargs == "*":
        return f"[{metavar}...]"
    return " ".join([metavar] * action.nargs) if isinstance(action.nargs, int) else metavar
