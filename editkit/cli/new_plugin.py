"""Write a new plugin: a distribution with a working example, its tests and a README.

NAME is what users will type. What is written can be installed, checked and run as it is; replace
the example by your own method, piece by piece.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import keyword
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from editkit.errors import UsageError
from editkit.registry.plugins import Registry, default_registry
from editkit.storage.resources import resource

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

KINDS = ("editor", "locator", "metric", "dataset")

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_LONGEST = 30
_SUFFIX = ".tmpl"
_FIELD = re.compile(r"\{\{(\w+)\}\}")
# Under src/, the package is found from any folder; beside the tests, the distribution's folder of
# the same name would hide it from a Python that is started where that folder is.
_RENAMED = {"package": "src/{package}", "dot_gitignore": ".gitignore"}
_RUN = {
    "editor": """\
Run it in a benchmark, beside another editor; its row stands in the table:

    editkit run-benchmark --editor {name} --editor rome --limit 20""",
    "locator": """\
Run it on a fact:

```python
from editkit import Fact, load_model
from {package}.config import {cls}Config
from {package}.locator import {cls}Locator

fact = Fact("The capital of France is", "France", "Paris")
locator = {cls}Locator({cls}Config())
[found] = locator.locate(load_model("atlas"), [fact])
print(found.tokens, found.scores)
```""",
    "metric": """\
Run it in a benchmark, beside another metric; its column stands in the table:

    editkit run-benchmark --metrics efficacy,{name} --limit 20""",
    "dataset": """\
Run a benchmark on its records:

    editkit run-benchmark --dataset {name} --metrics efficacy,paraphrase""",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="name that users will type, such as my-method")
    parser.add_argument("--kind", choices=KINDS, default="editor", help="default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write, default: ./NAME")


def run(args: argparse.Namespace) -> int:
    """Write the distribution and say what to do next."""
    target = args.out or Path(args.name)
    check_name(args.name, default_registry())
    write_plugin(args.name, args.kind, target)
    sys.stdout.write(
        f"The {args.kind} {args.name} is in {target}. Next:\n\n"
        f"    pip install -e {target}\n"
        f"    editkit check-plugin {args.name}\n\n"
        f"{target / 'README.md'} tells the rest.\n"
    )
    return 0


def check_name(name: str, registry: Registry) -> None:
    """Refuse a name that is malformed, or that something else has.

    Raises:
        UsageError: The name, why it cannot be, and what is expected.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise UsageError(
            f"{name!r} cannot be a plugin's name, expected at most {_LONGEST} lower-case letters, "
            "digits, and '-' or '_' between them, beginning with a letter.",
            hint="For example 'my-method'.",
        )
    trouble = _taken(name, registry)
    if trouble is not None:
        raise UsageError(
            f"{name!r} cannot be a plugin's name: {trouble}; expected a name that is free.",
            hint=f"For example 'my-{name}'." if len(name) < _LONGEST - 3 else "Choose another.",
        )


def _taken(name: str, registry: Registry) -> str | None:
    """Who has the name already."""
    package = _package(name)
    if keyword.iskeyword(package) or keyword.issoftkeyword(package):
        return "it is a word of the Python language"
    if package in sys.stdlib_module_names:
        return "it is a module of Python's standard library"
    if package in ("test", "tests"):
        return "tests are called so"
    for offer in registry.offers():
        if name in (offer.name, offer.source.plugin):
            return f"{offer.source} has an installed {offer.kind} or plugin of that name"
    for broken in registry.broken:
        if name == broken.source.plugin:
            return f"{broken.source} has an installed plugin of that name, which is broken"
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        return f"the distribution {name} {found} is installed"
    if importlib.util.find_spec(package) is not None:
        return f"a package {package!r} is installed"
    return None


def write_plugin(name: str, kind: str, target: Path) -> None:
    """Write all files of a new plugin, or none.

    Raises:
        UsageError: The target is a file or a folder with something in it, or cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(
            f"{str(target)!r} exists already, expected a new or empty folder.",
            hint="Choose another with --out.",
        )
    fields = _fields(name, kind)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".new-plugin-", dir=target.parent))
        try:
            whole = scratch / "whole"
            for path, text in _files(kind, fields):
                (whole / path).parent.mkdir(parents=True, exist_ok=True)
                (whole / path).write_text(text, encoding="utf-8")
            if target.exists():
                target.rmdir()
            whole.replace(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise UsageError(
            f"{str(target)!r} cannot be written: {error.strerror or error}.",
            hint="Choose a folder that you may write to with --out.",
        ) from error


def _package(name: str) -> str:
    return name.replace("-", "_")


def _fields(name: str, kind: str) -> dict[str, str]:
    package = _package(name)
    cls = "".join(part.capitalize() for part in package.split("_"))
    data = f'\n[tool.setuptools.package-data]\n{package} = ["*.jsonl"]\n'
    return {
        "name": name,
        "package": package,
        "class": cls,
        "kind": kind,
        "Kind": kind.capitalize(),
        "module": kind,
        "label": "".join(part[0] for part in package.split("_")).upper() + "S",
        "package_data": data if kind == "dataset" else "",
        "run": _RUN[kind].format(name=name, package=package, cls=cls),
    }


def _files(kind: str, fields: dict[str, str]) -> Iterator[tuple[Path, str]]:
    """The files of a new plugin with their texts, from the templates."""
    templates = resource("editkit:templates")
    for folder in ("common", kind):
        for path, template in _templates(templates / folder, Path()):
            text = template.read_text(encoding="utf-8")
            renamed = [_RENAMED.get(part, part).format(**fields) for part in path.parts]
            yield Path(*renamed), _FIELD.sub(lambda found: fields[found[1]], text)


def _templates(folder: Traversable, inside: Path) -> Iterator[tuple[Path, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _templates(entry, inside / entry.name)
        elif entry.name.endswith(_SUFFIX):
            yield inside / entry.name.removesuffix(_SUFFIX), entry
