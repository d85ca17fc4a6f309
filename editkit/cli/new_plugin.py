"""Create a new plugin: a distribution with a working example, its tests and a README.

NAME is what users will type. The result can be installed, checked and run at once; then replace the
example with your own method, piece by piece.
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

from editkit.cli.arguments import add_examples, add_flag
from editkit.errors import UsageError
from editkit.registry.plugins import Registry, default_registry
from editkit.storage.resources import resource

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

KINDS = ("editor", "locator", "metric", "model_metric", "judge", "dataset")
_IN_WORDS = {"model_metric": "metric of models"}

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_LONGEST = 30
_SUFFIX = ".tmpl"
_FIELD = re.compile(r"\{\{(\w+)\}\}")
# In src/, because next to the tests the distribution's folder, which has the same name, would hide
# the package from a Python that is started in the parent folder.
_RENAMED = {"package": "src/{package}", "dot_gitignore": ".gitignore"}
_RUN = {
    "editor": """\
Compare it with another editor in a benchmark:

    editkit run-benchmark --editor {name} --editor rome --limit 20""",
    "locator": """\
Run it on a fact:

```python
from editkit import Fact, load_model
from {package}.config import {cls}Config
from {package}.locator import {cls}Locator

fact = Fact("The capital of France is", "France", "Paris")
locator = {cls}Locator({cls}Config())
[location] = locator.locate(load_model("atlas"), [fact])
print(location.tokens, location.scores)
```""",
    "metric": """\
Add it to the columns of a benchmark:

    editkit run-benchmark --metrics efficacy,{name} --limit 20""",
    "model_metric": """\
Score the models that ten facts at a time were written into:

    editkit run-benchmark --editor rome --joint 10 --limit 20 --model-metrics {name}""",
    "judge": """\
Let it judge what edited models write:

    editkit run-benchmark --limit 20 --metrics judged --set metrics.judged.judge={name}""",
    "dataset": """\
Run a benchmark on its records:

    editkit run-benchmark --dataset {name} --metrics efficacy,paraphrase""",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="name that users will type, such as my-method")
    add_flag(
        parser,
        "--kind",
        choices=KINDS,
        default="editor",
        metavar="KIND",
        help=f"kind of plugin: {', '.join(KINDS)}",
    )
    add_flag(parser, "--out", default=None, help="folder to create", shown_default="./NAME")
    add_examples(
        parser, "editkit new-plugin my-method", "editkit new-plugin my-score --kind metric"
    )


def run(args: argparse.Namespace) -> int:
    """Write the distribution, and print what to do next."""
    target = args.out or Path(args.name)
    check_name(args.name, default_registry())
    write_plugin(args.name, args.kind, target)
    sys.stdout.write(
        f"The {_in_words(args.kind)} {args.name} is in {target}. Next:\n\n"
        f"    pip install -e {target}\n"
        f"    editkit check-plugin {args.name}\n\n"
        f"See {target / 'README.md'} for the rest.\n"
    )
    return 0


def check_name(name: str, registry: Registry) -> None:
    """Refuse a name that is malformed or taken.

    Raises:
        UsageError: It is.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise UsageError(
            f"{name!r} cannot be the name of a plugin, expected at most {_LONGEST} lower-case "
            "letters and digits, starting with a letter, with single '-' or '_' between them.",
            hint="For example 'my-method'.",
        )
    reason = _why_taken(name, registry)
    if reason is not None:
        raise UsageError(
            f"{name!r} cannot be the name of a plugin: {reason}; expected a free name.",
            hint=f"For example 'my-{name}'." if len(name) < _LONGEST - 3 else "Choose another.",
        )


def _why_taken(name: str, registry: Registry) -> str | None:
    """What has the name already, as a sentence; None if nothing has."""
    package = _package(name)
    if keyword.iskeyword(package) or keyword.issoftkeyword(package):
        return "it is a Python keyword"
    if package in sys.stdlib_module_names:
        return "Python's standard library has a module of that name"
    if package in ("test", "tests"):
        return "that is what tests are called"
    for offer in registry.offers():
        if name in (offer.name, offer.source.plugin):
            return f"{offer.source} is installed and has a plugin or {offer.kind} of that name"
    for broken in registry.broken:
        if name == broken.source.plugin:
            return f"{broken.source} is installed and has a broken plugin of that name"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        return f"the distribution {name} {version} is installed"
    if importlib.util.find_spec(package) is not None:
        return f"a package {package!r} is installed"
    return None


def write_plugin(name: str, kind: str, target: Path) -> None:
    """Write all files of a new plugin, or none.

    Raises:
        UsageError: The target is a file or a folder that is not empty, or cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(
            f"{str(target)!r} already exists, expected a new or empty folder.",
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
            f"cannot write {str(target)!r}: {error.strerror or error}.",
            hint="Choose another folder with --out.",
        ) from error


def _package(name: str) -> str:
    return name.replace("-", "_")


def _in_words(kind: str) -> str:
    return _IN_WORDS.get(kind, kind)


def _fields(name: str, kind: str) -> dict[str, str]:
    package = _package(name)
    contract = "".join(part.capitalize() for part in kind.split("_"))
    cls = _stem_of_class(package, kind.rpartition("_")[2], contract)
    data = f'\n[tool.setuptools.package-data]\n{package} = ["*.jsonl"]\n'
    return {
        "name": name,
        "package": package,
        "class": cls,
        "kind": _in_words(kind),
        "Kind": _in_words(kind).capitalize(),
        "contract": contract,
        "module": kind,
        "label": "".join(part[0] for part in package.split("_")).upper() + "S",
        "package_data": data if kind == "dataset" else "",
        "run": _RUN[kind].format(name=name, package=package, cls=cls),
    }


def _stem_of_class(package: str, suffix: str, contract: str) -> str:
    """``My`` for ``my_judge``: the templates append the kind to it, which must not come twice."""
    parts = package.split("_")
    shorter = "".join(part.capitalize() for part in parts[:-1])
    is_doubled = parts[-1] == suffix and shorter and shorter + suffix.capitalize() != contract
    return shorter if is_doubled else shorter + parts[-1].capitalize()


def _files(kind: str, fields: dict[str, str]) -> Iterator[tuple[Path, str]]:
    """The paths and texts of a new plugin's files, from the templates."""
    templates = resource("editkit:templates")
    for folder in ("common", kind):
        for path, template in _templates(templates / folder, Path()):
            text = template.read_text(encoding="utf-8")
            renamed = [_RENAMED.get(part, part).format(**fields) for part in path.parts]
            yield Path(*renamed), _FIELD.sub(lambda match: fields[match[1]], text)


def _templates(folder: Traversable, inside: Path) -> Iterator[tuple[Path, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _templates(entry, inside / entry.name)
        elif entry.name.endswith(_SUFFIX):
            yield inside / entry.name.removesuffix(_SUFFIX), entry
