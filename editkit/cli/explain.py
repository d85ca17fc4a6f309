"""Print a page of the documentation: about an error, a command, a file format, a method.

NAME is a page (regimes), a section of one (editors#presets), an error (DeltaError), a command
(doctor) or an exit code (3). Without it, all pages are listed.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import sys

from editkit.cli.arguments import add_examples, add_flag
from editkit.errors import UsageError, did_you_mean
from editkit.registry.plugins import KINDS, default_registry
from editkit.storage.pages import (
    page_names,
    page_text,
    page_title,
    readable,
    section_of,
    sections_of,
)
from editkit.terminal import aligned, rendered

_ERRORS = "errors/"
_COMMANDS = "cli"
_WIDEST = 100


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_flag(
        parser,
        "name",
        metavar="NAME",
        nargs="?",
        complete=page_names,
        help="a page, an error, a command or an exit code (default: list all pages)",
    )
    add_flag(
        parser,
        "--pager",
        action="store_true",
        help="page the text, if standard output is a terminal",
    )
    add_examples(parser, "editkit explain regimes", "editkit explain DeltaError")


def run(args: argparse.Namespace) -> int:
    """Print the page, or the list of pages."""
    if args.name is None:
        pages = aligned([(name, page_title(name)) for name in page_names()])
        sys.stdout.write(f"{pages}\n'editkit explain NAME' prints a page.\n")
        return 0
    text = _explanation(args.name)
    if not sys.stdout.isatty():
        sys.stdout.write(text)
        return 0
    from rich.markdown import Markdown

    width = min(shutil.get_terminal_size().columns, _WIDEST)
    text = rendered(Markdown(text, hyperlinks=False), terminal=True, width=width)
    if args.pager:
        import pydoc

        os.environ.setdefault("LESS", "-R")  # show colours
        pydoc.pager(text)
    else:
        sys.stdout.write(text)
    return 0


def _explanation(name: str) -> str:
    """The Markdown of what a name stands for.

    Raises:
        UsageError: Nothing in the documentation has that name.
    """
    asked, _, section = name.strip().lower().partition("#")
    asked = asked.removeprefix("docs/").removesuffix(".md").removesuffix("/index").strip("/")
    if asked.isdecimal() and not section and (text := _exit_code(int(asked))):
        return text
    page = asked if asked in page_names() else _errors().get(asked.removeprefix(_ERRORS))
    if page is None and not section and asked in sections_of(page_text(_COMMANDS)):
        page, section = _COMMANDS, asked
    if page is None:
        raise _unknown(name, asked)
    text = page_text(page)
    if section:
        if section not in sections_of(text):
            raise UsageError(
                f"the page {page!r} has no section {section!r}.",
                hint=did_you_mean(section, sections_of(text))
                or f"'editkit explain {page}' prints the whole page.",
            )
        return readable(section_of(text, section), page)
    text = readable(text, page)
    if f"{_ERRORS}{page}" in page_names():
        text += f"\n`editkit explain {_ERRORS}{page}` explains the errors.\n"
    return text


def _errors() -> dict[str, str]:
    """The pages of errors by their short names and by their classes, in lower case."""
    pages = [page for page in page_names() if page.startswith(_ERRORS)]
    classes = {page_title(page).lower(): page for page in pages}
    return {
        **classes,
        **{page.removeprefix(_ERRORS): page for page in pages},
        "editkiterror": "errors",
    }


def _exit_code(code: int) -> str | None:
    """What an exit code means and which errors end with it; None if editkit never ends with it."""
    row = re.search(
        rf"^\| {code} \| (.*) \|$", section_of(page_text(_COMMANDS), "exit-codes"), re.M
    )
    if row is None:
        return None
    errors = [
        f"- {page_title(page)}: `editkit explain {page}`\n"
        for page in dict.fromkeys(_errors().values())
        if re.search(rf"\b[Ee]xit code {code}\b", page_text(page))
    ]
    return "\n".join([f"# Exit code {code}\n", f"{row[1]}\n", "".join(errors)]).rstrip() + "\n"


def _unknown(name: str, asked: str) -> UsageError:
    registry = default_registry()
    kinds = [kind for kind in KINDS if registry.has(kind, name)]
    titles = [page_title(page) for page in _errors().values()]
    names = [*page_names(), *_errors(), *sections_of(page_text(_COMMANDS)), *titles]
    known = {name.lower(): name for name in names}
    if kinds:
        hint = f"'editkit describe {name}' describes the {kinds[0].replace('_', ' ')}."
    else:
        close = difflib.get_close_matches(asked, known, n=1)
        hint = (
            f"Did you mean {known[close[0]]!r}?" if close else "'editkit explain' lists the pages."
        )
    return UsageError(f"the documentation has no page {name!r}.", hint=hint)
