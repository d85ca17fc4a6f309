"""Files in packages: what a reference names, and the error when it names nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from editkit.errors import ConfigError, PluginError
from editkit.storage.resources import path_of, resource, resource_path, resource_text


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable package ``shipped`` with a text, a folder, and two modules that fail."""
    folder = tmp_path / "shipped"
    (folder / "values").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "module.py").write_text("")
    (folder / "values" / "a.yaml").write_bytes("\ufeffname: é\n".encode())
    (folder / "values" / "latin.yaml").write_bytes(b"name: \xe9\n")
    for name, line in {"raises": "1 / 0", "lacks": "import not_installed_anywhere"}.items():
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"{line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "shipped"]:
        del sys.modules[name]


def test_a_reference_names_a_file_a_folder_or_the_package(package: Path) -> None:
    assert resource_text("shipped:values/a.yaml") == "name: é\n"
    assert resource_path("shipped:values") == package / "values"
    assert sorted(entry.name for entry in resource("shipped:values").iterdir()) == [
        "a.yaml",
        "latin.yaml",
    ]
    assert resource_path("shipped") == package


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("not_there_at_all:a", "there is no package 'not_there_at_all'"),
        ("shipped.none:a", "there is no package 'shipped.none'"),
        ("shipped:b.yaml", "package 'shipped' has no 'b.yaml'"),
        ("shipped.module:a", "'shipped.module' is a module, not a package"),
        ("shipped.raises:a", "importing 'shipped.raises' failed: ZeroDivisionError"),
        ("shipped.lacks:a", "importing 'shipped.lacks' failed: No module named"),
        ("shipped:values/latin.yaml", "it cannot be read"),
        (":a", "importing '' failed"),
    ],
)
def test_a_reference_to_nothing_names_itself_its_owner_and_the_reason(
    package: Path, reference: str, reason: str
) -> None:
    with pytest.raises(PluginError, match="named by editor 'mine'") as caught:
        resource_text(reference, owner="editor 'mine'")
    assert caught.value.message.startswith(f"cannot find {reference!r}, named by")
    assert reason in caught.value.message
    assert "Reinstall the package" in str(caught.value.hint)


def test_users_name_paths_and_files_in_packages(package: Path, tmp_path: Path) -> None:
    assert path_of("shipped:values/a.yaml") == package / "values" / "a.yaml"
    assert path_of("some/file.txt") == Path("some/file.txt")
    assert path_of("~/file.txt") == Path.home() / "file.txt"
    with pytest.raises(ConfigError, match="there is no package 'not_there_at_all'"):
        path_of("not_there_at_all:file")


def test_an_existing_path_with_a_colon_is_a_path(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shipped:odd").write_text("")
    assert path_of("shipped:odd") == Path("shipped:odd")
