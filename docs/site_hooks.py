"""What mkdocs does not do by itself when it builds the site: see ``hooks`` in ``mkdocs.yml``.

- Some pages are files outside ``docs/`` (the README is the front page). Links between them and the
  pages of ``docs/`` work in the repository and in the site.
- Blocks of the language ``math`` are LaTeX. They become MathML, which browsers typeset by
  themselves: nothing is fetched when a page is read.
- Docstrings refer to names as ``:func:`name```. In the API reference these are links.
"""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

__all__ = ["Docstrings", "on_config", "on_files", "on_page_markdown"]

PAGES_ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/atlas/README.md": "benchmarks/atlas.md",
    "benchmarks/smollm2/README.md": "benchmarks/smollm2.md",
}
"""Files of the repository that are pages of the site, by their paths in both."""

_LINK = re.compile(r"(!?)\[((?:`[^`\n]*`|[^\]`])*)\]\((?![a-z]+:|#)([^)\s#]+)(#[^)\s]+)?\)")
_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`(~?)([\w.]+)`")
_ROW, _NAME = re.compile(r"^\| \[.*$", re.MULTILINE), re.compile(r"`(\w+)`")
_log = get_plugin_logger("site")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Typeset blocks of the language ``math``."""
    fence = {"name": "math", "class": "math", "format": typeset}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside ``docs/``."""
    for source, page in PAGES_ELSEWHERE.items():
        content = (_root(config) / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links that leave ``docs/``, or start outside it, to pages of the site."""
    here = page.file.src_uri
    if here == "api/index.md":
        markdown = _ROW.sub(lambda row: _NAME.sub(r"[`\1`][editkit.\1]", row[0]), markdown)
    source = next((s for s, p in PAGES_ELSEWHERE.items() if p == here), f"docs/{here}")

    def redirected(link: re.Match[str]) -> str:
        image, text, path, section = link[1], link[2], link[3], link[4] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if not (_root(config) / target).exists():
            return link[0]  # mkdocs reports it
        if target in PAGES_ELSEWHERE:
            target = PAGES_ELSEWHERE[target]
        elif target.startswith("docs/") and files.get_file_from_path(target[len("docs/") :]):
            target = target[len("docs/") :]
        elif source.startswith("docs/"):
            _log.warning("%s links to %s, which is not in the site: write its path", here, target)
        else:
            return text  # a file of the repository, such as its licence
        return f"{image}[{text}]({posixpath.relpath(target, posixpath.dirname(here))}{section})"

    return _LINK.sub(redirected, markdown)


def typeset(source: str, language: str, css_class: str, *_: Any, **__: Any) -> str:
    """MathML of LaTeX, one equation a line; the source is shown when the pointer is over it."""
    lines = [line for line in map(str.strip, source.strip().splitlines()) if line]
    equations = "".join(convert(line, display="block") for line in lines)
    return f'<div class="{css_class}" title="{html.escape(source.strip())}">{equations}</div>'


class Docstrings(griffe.Extension):
    """Docstrings as the API reference shows them.

    Names are links where the site has them, otherwise code. Special methods without a docstring
    are left out, and so are fields that the docstring of their class documents.
    """

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Prepare the docstrings of a package."""
        objects: list[griffe.Object] = [pkg]
        while objects:
            scope = objects.pop()
            objects += [each for each in scope.members.values() if isinstance(each, griffe.Object)]
            if scope.docstring:
                scope.docstring.value = _ROLE.sub(_link_in(scope), scope.docstring.value)
            elif scope.name.startswith("__") and scope.name != "__init__":
                scope.public = False
            elif scope.is_attribute and scope.parent and scope.parent.is_class:
                parent = scope.parent.docstring
                scope.public = parent is None or f"\n    {scope.name}: " not in parent.value


def _link_in(scope: griffe.Object) -> Callable[[re.Match[str]], str]:
    def link(role: re.Match[str]) -> str:
        shortened, name = role.groups()
        try:
            target = scope.resolve(name)
        except griffe.NameResolutionError:
            target = name
        shown = name.rpartition(".")[2] if shortened else name
        return f'<autoref optional identifier="{target}"><code>{shown}</code></autoref>'

    return link


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).parent
