"""``editkit explain`` leads from an error, a link or a name to a page of the documentation."""

from __future__ import annotations

import re
import sys

import pytest

from editkit import EditkitError
from editkit.errors import DeltaError
from editkit.storage.pages import page_names, page_text, readable, section_of, sections_of
from tests.editkit.benchmark.fakes import ROOT
from tests.editkit.cli.test_docs import ERRORS
from tests.editkit.cli.test_main import Cli

_COMMAND = re.compile(r"editkit explain ([\w/#-]+)")


def test_every_page_of_the_documentation_is_listed_with_its_title(editkit: Cli) -> None:
    code, out, _ = editkit("explain")
    assert code == 0
    listed = [line.split(maxsplit=1) for line in out.split("\n\n")[0].splitlines()]
    files = (path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md"))
    names = sorted(str(file.with_suffix("")).removesuffix("/index") for file in files)
    assert [name for name, _ in listed] == names
    assert ["errors/delta", "DeltaError"] in listed


@pytest.mark.parametrize("error", [EditkitError, *ERRORS], ids=lambda error: error.__name__)
def test_the_command_that_an_error_names_prints_its_page(
    editkit: Cli, error: type[EditkitError]
) -> None:
    [name] = _COMMAND.findall(error("").reference)
    code, out, _ = editkit("explain", name)
    assert code == 0
    title = "Errors" if error is EditkitError else error.__name__
    assert out.startswith(f"# {title}\n")
    assert editkit("explain", error.__name__)[1] == out


def test_a_traceback_shows_where_to_read_on() -> None:
    if sys.version_info >= (3, 11):
        assert DeltaError("x").__notes__ == ["see: editkit explain errors/delta"]
    assert str(DeltaError("x", hint="Do y.")) == "x Do y."


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("delta", "# DeltaError\n"),
        ("errors/delta.md", "# DeltaError\n"),
        ("docs/regimes.md", "# Many facts in one model\n"),
        ("Regimes", "# Many facts in one model\n"),
        ("editors#presets", "## Presets: the published code against the papers' texts\n"),
        ("doctor", "## doctor\n\n    editkit doctor"),
        (
            "3",
            "# Exit code 3\n\na required plugin is missing or broken\n\n- PluginError: `editkit ",
        ),
        ("2", "# Exit code 2\n\nwrong usage, configuration, request, dataset or model\n\n- Cache"),
        ("130", "# Exit code 130\n\ninterrupted with Ctrl-C\n"),
    ],
)
def test_names(editkit: Cli, name: str, start: str) -> None:
    code, out, err = editkit("explain", name)
    assert (code, err) == (0, "")
    assert out.startswith(start)


def test_a_section_ends_where_the_next_one_begins(editkit: Cli) -> None:
    out = editkit("explain", "cli#doctor")[1]
    assert "The exit code is 1 if a check is a `problem`," in out
    assert "## plugins" not in out


def test_a_page_that_shares_its_name_with_an_error_names_the_errors(editkit: Cli) -> None:
    out = editkit("explain", "config")[1]
    assert out.startswith("# Configuration")
    assert out.endswith("\n`editkit explain errors/config` explains the errors.\n")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("regimse", "Did you mean 'regimes'?"),
        ("DeltaEror", "Did you mean 'DeltaError'?"),
        ("editors#preset", "Did you mean 'presets'?"),
        ("rome", "'editkit describe rome' describes the editor."),
        ("99", "'editkit explain' lists the pages."),
        ("../setup", "'editkit explain' lists the pages."),
    ],
)
def test_misspelt_names(editkit: Cli, name: str, hint: str) -> None:
    code, out, err = editkit("explain", name)
    assert (code, out) == (2, "")
    assert f"\n  hint: {hint}\n" in err


@pytest.mark.parametrize("page", page_names())
def test_every_link_of_a_page_becomes_a_command_that_works(page: str) -> None:
    shown = readable(page_text(page), page)
    assert not re.search(
        r"\]\((?!https?://)", re.sub(r"```.*?```|`[^`\n]*`", "", shown, flags=re.S)
    )
    assert "<" not in re.sub(r"```.*?```|`[^`]*`|^    .*?$", "", shown, flags=re.S | re.M)
    for name in _COMMAND.findall(shown):
        target, _, section = name.partition("#")
        assert target in page_names(), name
        assert not section or section in sections_of(page_text(target)), name


def test_links_as_a_terminal_shows_them() -> None:
    text = (
        "See [the regimes](../regimes.md#interruptions), [text.md](../text.md), [here](#top), "
        "![a plot](../images/x.png), [the notebook](../notebooks/editing.ipynb), "
        "[the list](index.md), [the site](https://example.org), `[not](a.link)`. "
        "x<sup>1</sup><!-- not shown -->\n"
    )
    assert readable(text, "errors/delta") == (
        "See the regimes (`editkit explain regimes#interruptions`), `editkit explain text`, "
        "here (`editkit explain errors/delta#top`), [image: a plot], the notebook "
        "(docs/notebooks/editing.ipynb in the repository), the list (`editkit explain errors`), "
        "[the site](https://example.org), `[not](a.link)`. x^1\n"
    )
    assert readable("a\n<!-- output: x -->\nb\n", "text") == "a\nb\n"


def test_a_page_of_the_reference_names_the_commands_that_print_docstrings(editkit: Cli) -> None:
    _, out, _ = editkit("explain", "api/covariance")
    assert "\n    python -m pydoc editkit.covariance.second_moment\n" in out
    assert ":::" not in out


def test_sections_of_a_page() -> None:
    text = "# A\n\n```\n## no\n```\n\n## B c\n\n1\n\n### D\n\n2\n\n## E\n"
    assert list(sections_of(text)) == ["a", "b-c", "d", "e"]
    assert section_of(text, "b-c") == "## B c\n\n1\n\n### D\n\n2\n"
    with pytest.raises(KeyError):
        section_of(text, "no")


def test_a_terminal_gets_formatted_text_and_a_pager_if_it_is_wanted(
    editkit: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    paged: list[str] = []
    monkeypatch.setattr("pydoc.pager", paged.append)
    assert editkit("explain", "delta", "--pager")[1].startswith("# DeltaError\n")
    monkeypatch.setattr("editkit.cli.explain.sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LESS", "-R")
    out = editkit("explain", "delta")[1]
    assert "\x1b[" in out
    bare = re.sub(r"\x1b\[[\d;]*m", "", out)
    assert "# DeltaError" not in bare
    assert "DeltaError" in bare
    assert max(map(len, bare.splitlines())) <= 60
    assert editkit("explain", "delta", "--pager")[1] == ""
    assert paged == [out]
