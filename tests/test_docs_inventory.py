"""Pages that list things of one kind list all of them: environment variables, pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

_TEXT = re.compile(r'"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)"')
_FAMILIES = (
    *("EDITKIT_", "MLFLOW_", "RAY_", "XDG_", "OMP_", "MKL_", "OPENBLAS_", "ATEN_", "CUBLAS_"),
    *("NVIDIA_", "DNNL_", "TOKENIZERS_", "HF_HUB_", "HF_DATASETS_", "HF_ENDPOINT", "DO_NOT_"),
    *("AWS_", "GOOGLE_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"),
)
"""How the names begin that are variables wherever a module has them as a text."""


def variables_in(folder: str) -> Iterator[str]:
    """Names of environment variables in the modules of a folder."""
    for path in (ROOT / folder).rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        yield from re.findall(r"environ(?:\.\w+\(|\[|, )\"([A-Z]\w+)\"", text)
        yield from (name for name in _TEXT.findall(text) if name.startswith(_FAMILIES))


def test_every_environment_variable_is_documented_and_exists() -> None:
    used = {
        name for folder in ("editkit", "plugins", "benchmarks") for name in variables_in(folder)
    }
    used |= {name for name in variables_in("tests") if name.startswith("EDITKIT_")}
    page = (DOCS / "environment.md").read_text(encoding="utf-8")
    of_libraries = page.partition("\n## Of libraries, for convenience\n")[2].partition("\n## ")[0]
    documented = set(re.findall(r"`\$?([A-Z][A-Z0-9_]+)(?:`|/)", page.replace(of_libraries, "")))
    endings = {"TOKEN", "PASSWORD", "SECRET", "API_KEY", "WARNING"}
    assert used - documented == set()
    assert documented - endings - used == set()


def test_every_picture_exists_and_is_in_the_gallery() -> None:
    pictures = {path.resolve() for path in (DOCS / "images").rglob("*") if path.is_file()}
    shown: dict[Path, set[str]] = {picture: set() for picture in pictures}
    for page in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        for target in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            shown[(page.parent / target).resolve()].add(page.relative_to(ROOT).as_posix())
    assert [path for path, pages in shown.items() if "docs/gallery.md" not in pages] == []
    assert [path for path in pictures if path.stat().st_size > 300_000] == []


def test_every_picture_of_the_gallery_has_a_command() -> None:
    gallery = (DOCS / "gallery.md").read_text(encoding="utf-8")
    for part in gallery.split("\n![")[1:]:
        assert re.search(r"^    (editkit|python -m) ", part, re.MULTILINE), part[:60]
