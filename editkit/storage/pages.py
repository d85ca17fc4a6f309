"""The pages of the documentation, which are installed with editkit.

A page is named by its path without ``.md``: ``regimes``, ``errors/delta``. The index of a folder
has the folder's name. Links are rewritten, so that they make sense in a terminal: a link to another
page becomes the command that prints it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from editkit.storage.resources import resource

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["page_names", "page_text", "page_title", "readable", "section_of", "sections_of"]

_PAGES = "editkit_docs"
_INDEX = "index"
_CODE_OR_LINK = re.compile(
    r"(?P<code>```.*?```)"
    r"|(?P<image>!)?\[(?P<text>(?:`[^`]*`|[^\]`])*)\]\((?P<target>[^)\s]+)\)"
    r"|(?P<inline>`[^`\n]*`)",
    re.DOTALL,
)
_HEADING = re.compile(r"^(#+) (.*)$", re.MULTILINE)
_ANCHOR = re.compile(r'<a id="([^"]+)"></a>\s*')


@cache
def _files() -> Mapping[str, Traversable]:
    """The files of all pages by name, sorted."""
    files: dict[str, Traversable] = {}

    def collect(folder: Traversable, prefix: str) -> None:
        for entry in folder.iterdir():
            stem, dot, ending = entry.name.rpartition(".")
            if entry.is_dir():
                collect(entry, f"{prefix}{entry.name}/")
            elif (dot, ending) == (".", "md"):
                files[_without_index(prefix + stem)] = entry

    collect(resource(_PAGES, owner="'editkit explain'"), "")
    return MappingProxyType(dict(sorted(files.items())))


def _without_index(name: str) -> str:
    return name.removesuffix(f"/{_INDEX}")


def page_names() -> list[str]:
    """The names of all pages, sorted."""
    return list(_files())


def page_text(name: str) -> str:
    """The Markdown of a page as it is in its file.

    Raises:
        KeyError: There is no such page.
    """
    return _files()[name].read_text(encoding="utf-8")


def page_title(name: str) -> str:
    """The first heading of a page; raises KeyError as :func:`page_text`."""
    heading = _HEADING.search(page_text(name))
    return heading[2] if heading else name


def sections_of(text: str) -> dict[str, int]:
    """Where each section of a page begins: offsets by the names that links use (GitHub's)."""
    prose = re.sub(r"```.*?```", lambda fence: " " * len(fence[0]), text, flags=re.DOTALL)
    places = {
        re.sub(r"[^\w -]", "", heading[2]).lower().replace(" ", "-"): heading.start()
        for heading in _HEADING.finditer(prose)
    }
    # an anchor names the heading after it
    return places | {anchor[1]: anchor.end() for anchor in _ANCHOR.finditer(prose)}


def section_of(text: str, section: str) -> str:
    """One section of a page, with its subsections.

    Raises:
        KeyError: The page has no such section.
    """
    places = sections_of(text)
    start = places[section]
    heading = _HEADING.match(text, start)
    level = len(heading[1]) if heading else 0
    ends = [
        place
        for place in places.values()
        if place > start and (next_ := _HEADING.match(text, place)) and len(next_[1]) <= level
    ]
    return text[start : min(ends, default=len(text))].rstrip() + "\n"


def readable(text: str, page: str) -> str:
    """The Markdown of a page, or of a part of it, for reading in a terminal.

    Args:
        text: Its Markdown.
        page: The name of the page, which relative links start from.
    """
    is_index = any(name.startswith(f"{page}/") for name in _files())
    folder = page if is_index else posixpath.dirname(page)

    def rewritten(match: re.Match[str]) -> str:
        if match["target"] is None:
            return match[0]
        if match["image"]:
            return f"[image: {match['text']}]"
        if "://" in match["target"]:
            return match[0]
        path, _, section = match["target"].partition("#")
        name = _without_index(posixpath.normpath(posixpath.join(folder, path)).removesuffix(".md"))
        name = name if path else page
        if name not in _files():
            place = posixpath.normpath(posixpath.join("docs", folder, path))
            return f"{match['text']} ({place} in the repository)"
        command = f"`editkit explain {name}{'#' if section else ''}{section}`"
        if match["text"].strip("`").endswith((".md", "/")):  # the text is the file
            return command
        return f"{match['text']} ({command})"

    text = re.sub(r"(?m:^)<!--.*?-->\n|<!--.*?-->", "", _ANCHOR.sub("", text), flags=re.DOTALL)
    text = re.sub(r"(?m:^)::: (\S+)", r"    python -m pydoc \1", text)  # docstrings
    text = re.sub(r"<sub>(.*?)</sub>", r"_\1", re.sub(r"<sup>(.*?)</sup>", r"^\1", text))
    return _CODE_OR_LINK.sub(rewritten, text)
