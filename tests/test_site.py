"""The documentation site builds without a warning, and shows every page as its file means it."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import editkit

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

for _needed in ("material", "mkdocstrings", "latex2mathml"):
    if importlib.util.find_spec(_needed) is None:
        pytest.skip(f"{_needed} is not installed: extra `docs`", allow_module_level=True)

from mkdocs.config import load_config  # noqa: E402

from editkit_docs.site_hooks import PAGES_ELSEWHERE, typeset  # noqa: E402

_CODE = re.compile(r"<(pre|code)\b.*?</\1>", re.DOTALL)
_PARAGRAPH = re.compile(r"<p>(.*?)</p>", re.DOTALL)
_UNREAD = re.compile(r"^\s*(?:[-*] |\d+\. |\||#+ |```|&gt; )|\]\([^)]*\)", re.MULTILINE)
_LOADED = re.compile(r"<(?:link|script|img|iframe|source)\b[^>]*\b(?:href|src)=\"?(https?:)?//")


def test_every_page_is_in_the_navigation_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "true")  # the theme sets it
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    pages += PAGES_ELSEWHERE.values()
    config = load_config(str(ROOT / "mkdocs.yml"))
    assert sorted(_leaves(config.nav)) == sorted(pages)


def _leaves(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    children = nav.values() if isinstance(nav, dict) else nav
    return [page for child in children for page in _leaves(child)]


@pytest.fixture
def site(built_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    def build(target: Path) -> None:
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
        done = subprocess.run(
            [*command, "--site-dir", str(target)],
            cwd=ROOT,
            env={**os.environ, "NO_MKDOCS_2_WARNING": "true"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout + done.stderr == ""

    return built_once("site", build)


def test_the_site_builds_without_a_warning(site: Path) -> None:
    built = {path.relative_to(site).with_suffix(".md").as_posix() for path in site.rglob("*.html")}
    assert built >= {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert "index.md" in built
    assert not list(site.rglob("*.py"))


def test_lists_tables_and_links_are_read_as_such(site: Path) -> None:
    """GitHub reads a list right after a line of text, the site only after an empty line."""
    unread = [
        f"{path.relative_to(site)}: {match[0]!r} in {paragraph[:60]!r}"
        for path in site.rglob("*.html")
        for paragraph in _PARAGRAPH.findall(_CODE.sub("", path.read_text(encoding="utf-8")))
        if (match := _UNREAD.search(paragraph))
    ]
    assert unread == []


def test_pages_load_nothing_from_a_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert pages
    assert not [path for path in pages if _LOADED.search(path.read_text(encoding="utf-8"))]
    own = (site / "theme" / "site.css").read_text(encoding="utf-8")
    assert "http" not in own


_DIRECTIVE = re.compile(r"^::: (\S+)$", re.MULTILINE)
REFERENCE = {
    page: _DIRECTIVE.findall(page.read_text(encoding="utf-8"))
    for page in (DOCS / "api").glob("*.md")
}
FOR_COMMANDS = ("editkit.benchmark.", "editkit.cli.", "editkit.workers.")
"""What plugins with commands use; methods, metrics and datasets do not need it."""


def test_the_reference_has_every_public_name(site: Path) -> None:
    inventory = (site / "objects.inv").read_bytes().partition(b"zlib.\n")[2]
    shown = {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines()}
    public = {f"editkit.{name}" for name in editkit.__all__}
    modules = [module for modules in REFERENCE.values() for module in modules]
    assert len(modules) == len(set(modules))
    for module in modules:
        names = getattr(importlib.import_module(module), "__all__", ())
        public |= {module, *(f"{module}.{name}" for name in names)}
    assert public - shown == set()
    overview = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[.*\|([^|]*)\|$", overview, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", "".join(rows))) == sorted(editkit.__all__)


def test_the_reference_has_every_module_that_plugins_use() -> None:
    used = {
        node.module
        for path in (ROOT / "plugins").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("editkit.")
    }
    shown = {module for modules in REFERENCE.values() for module in modules}
    elsewhere = {"editkit.validation"}  # Config, which editkit.interfaces exports
    assert [each for each in used - shown - elsewhere if not each.startswith(FOR_COMMANDS)] == []


def test_equations_are_typeset_when_the_site_is_built() -> None:
    block = typeset("\\hat{W} = W + \\Lambda (C^{-1} k_*)^\\top\n\nx < y", "math", "math")
    assert block.count("<math ") == 2
    assert "<mi>&#x0039B;</mi>" in block
    assert 'title="\\hat{W} = W + \\Lambda (C^{-1} k_*)^\\top\n\nx &lt; y"' in block
