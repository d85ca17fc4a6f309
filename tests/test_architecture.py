"""The arrows of the design: the core knows no plugin, plugins know only the public core."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = "editkit"
FOLDERS = {
    CORE: "editkit",
    "editkit_plugins": "plugins",
    "editkit_benchmarks": "benchmarks",
    "editkit_configs": "configs",
    "editkit_docs": "docs",
}
OUTSIDE = [package for package in FOLDERS if package not in (CORE, "editkit_docs")]
LONGEST_MODULE = 600
LAYERS = [
    {"palette", "redaction", "progress", "safe_text"},
    {"errors", "reprs", "terminal"},
    {"mistakes", "validation"},
    {"prompts", "storage"},
    {"consequences", "matching"},
    {"data_types", "figures", "judging", "regimes"},
    {"results", "models"},
    {"editing"},
    {"interfaces", "selfcheck"},
    {"registry"},
    {"records", "workers"},
    {"covariance", "patches", "tracing"},
    {"methods"},
    {"benchmark"},
    {"report", "doctor", "testing"},
    {"cli"},
    {"__main__"},
]
"""The packages and modules of the core, lowest first; each imports from lower layers only."""
PICKLING = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / FOLDERS[package]).rglob("*.py"))


SHIPPED = [path for package in FOLDERS for path in modules(package)]


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def dotted_name(package: str, path: Path) -> str:
    parts = path.relative_to(ROOT / FOLDERS[package]).with_suffix("").parts
    return ".".join([package, *(part for part in parts if part != "__init__")])


def imports(package: str, path: Path) -> Iterator[tuple[ast.AST, str, str | None]]:
    """Every import of a module as (node, module, name); the name is None for ``import module``."""
    name = dotted_name(package, path)
    base = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name, None
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            module = importlib.util.resolve_name(relative, base) if node.level else relative
            for alias in node.names:
                yield node, module, alias.name


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def is_public(module: str, name: str | None) -> bool:
    """Whether ``from module import name`` asks only for what the core exports."""
    if name is None:
        return False  # `import editkit.x` reaches for everything in it
    exported = getattr(importlib.import_module(module), "__all__", ())
    return name in exported


@pytest.mark.parametrize("path", modules(CORE), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_imports_and_names_no_plugin(path: Path) -> None:
    violations = [
        f"{place(path, node)} imports {module}"
        for node, module, _ in imports(CORE, path)
        if any(within(module, package) for package in OUTSIDE)
    ]
    violations += [
        f"{place(path, node)} names {node.value!r}"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and any(package in node.value for package in OUTSIDE)
    ]
    assert not violations


def core_imports(*, modules_of: bool) -> dict[str, set[str]]:
    """Who imports whom in the core, imports in functions and for type checkers included.

    Args:
        modules_of: Whether to name modules; otherwise the packages at the top of the core.
    """
    names = {dotted_name(CORE, path): path for path in modules(CORE)}

    def shown(module: str) -> str:
        return module if modules_of else [*module.split("."), "__init__"][1]

    graph: dict[str, set[str]] = {shown(name): set() for name in names}
    for name, path in names.items():
        for _, module, imported in imports(CORE, path):
            target = f"{module}.{imported}" if f"{module}.{imported}" in names else module
            if target in names and shown(target) != shown(name):
                graph[shown(name)].add(shown(target))
    return graph


def circles(graph: dict[str, set[str]]) -> list[str]:
    """The nodes that can be reached from themselves."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        open_ = set(graph[start])
        while open_:
            node = open_.pop()
            seen.add(node)
            open_ |= graph[node] - seen
        return seen

    return sorted(node for node in graph if node in reached(node))


def test_imports_between_packages_run_downwards() -> None:
    graph = core_imports(modules_of=False)
    del graph["__init__"]  # the public names of all layers
    assert set(graph) == set().union(*LAYERS)
    height = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    upward = [
        f"{name} imports {target}"
        for name, targets in graph.items()
        for target in targets - {"__init__"}
        if height[target] >= height[name]
    ]
    assert not upward


def test_no_modules_import_each_other() -> None:
    graph = core_imports(modules_of=True)
    del graph[CORE]
    assert not circles({name: targets - {CORE} for name, targets in graph.items()})


def test_plugins_import_only_public_names_of_the_core() -> None:
    violations = [
        f"{place(path, node)} imports {name or 'all'} from {module}"
        for path in modules("editkit_plugins")
        for node, module, name in imports("editkit_plugins", path)
        if within(module, CORE) and not is_public(module, name)
    ]
    assert not violations


def test_no_plugin_imports_another() -> None:
    violations = []
    for path in modules("editkit_plugins"):
        own = ".".join(dotted_name("editkit_plugins", path).split(".")[:2])
        violations += [
            f"{place(path, node)} imports {module}"
            for node, module, _ in imports("editkit_plugins", path)
            if any(within(module, package) for package in OUTSIDE) and not within(module, own)
        ]
    assert not violations


def test_what_is_exported_exists() -> None:
    for path in modules(CORE):
        module = importlib.import_module(dotted_name(CORE, path))
        exported = getattr(module, "__all__", ())
        missing = [name for name in exported if not hasattr(module, name)]
        assert not missing, f"{module.__name__} exports {missing}"


def test_modules_are_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SHIPPED}
    long = {str(p.relative_to(ROOT)): n for p, n in lengths.items() if n >= LONGEST_MODULE}
    assert not long


def test_shipped_code_validates_without_assert() -> None:
    violations = [
        place(path, node)
        for path in SHIPPED
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Assert)
    ]
    assert not violations


def test_shipped_code_reads_and_writes_no_pickles() -> None:
    violations = []
    converter = ROOT / "plugins" / "learned" / "published.py"  # on request, tensors only
    for path in set(SHIPPED) - {converter}:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]}
                if node.module == "torch":
                    names |= {f"torch.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names = {f"{node.value.id}.{node.attr}"}
            else:
                continue
            if names & (PICKLING | {"torch.load", "torch.save"}):
                violations.append(place(path, node))
    assert not violations


def test_shipped_code_names_no_place_on_our_machines() -> None:
    needles = ("/" + "work/", "/" + "tmp/", "/" + "home/", "/" + "root/")
    violations = [
        f"{path.relative_to(ROOT)}: {needle}"
        for path in SHIPPED
        for needle in needles
        if needle in path.read_text(encoding="utf-8")
    ]
    assert not violations


def run_tool(*command: str) -> None:
    if shutil.which(command[0], path=str(Path(sys.executable).parent)) is None:
        pytest.skip(f"{command[0]} is not installed: pip install -e '.[dev]'")
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_is_content() -> None:
    run_tool("ruff", "check", ".")


def test_ruff_would_format_nothing() -> None:
    run_tool("ruff", "format", "--check", ".")


@pytest.mark.slow
def test_mypy_is_content() -> None:
    run_tool("mypy")


def test_names_complete_before_they_are_loaded() -> None:
    import editkit

    names = dir(editkit)
    assert {"load_model", "trace", "applied", "EditedModels"} <= set(names)
    assert all(hasattr(editkit, name) for name in names)
