"""The Python in the README and the documentation runs, page by page, in the order of the page.

A comment before a block is its set-up (``<!-- before: CODE -->``) or the reason why it is not run
(``<!-- not run: REASON -->``).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

_BLOCK = re.compile(r"(?:<!-- (before|not run):(.*?)-->\n)?```python\n(.*?)```", re.DOTALL)
ELSEWHERE = {
    "README.md": "tests/test_readme.py",
    "docs/architectures.md": "tests/test_architecture_guide.py",
    "docs/editors.md": "tests/editkit/editing/test_rome_value.py",
    "docs/one-fact.md": "tests/test_readme.py",
    "docs/plugins.md": "tests/test_plugin_guide.py",
    "docs/testing.md": "tests/editkit/testing/test_testing_docs.py",
    "docs/your-own-model.md": "tests/test_own_model_guide.py",
}
"""Pages that a test of their own runs, and checks what their code prints or returns."""
SLOW = {f"docs/{page}.md" for page in ("api/index", "export", "faq", "ledger", "locators")}
"""Pages that trace, or edit with ROME and measure the patch: seconds each."""


def blocks_of(page: str) -> list[tuple[str, str, str]]:
    """Kind and text of the comment before each block, and its code."""
    return _BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


ALL = [
    path.relative_to(ROOT).as_posix()
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
    if "```python" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * (page in SLOW))
        for page in ALL
        if page not in ELSEWHERE
    ],
)
def test_the_code_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page}
    for kind, comment, code in blocks_of(page):
        if kind == "not run":
            assert comment.strip(), f"{page}: give the reason"
            continue
        for part in (comment, code):
            exec(compile(part, page, "exec"), names)


def test_pages_with_tests_of_their_own_are_read_by_them() -> None:
    for page, test in ELSEWHERE.items():
        assert page in ALL
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8"), test
