"""The guide for plugin authors lists every hook, with its signature."""

from __future__ import annotations

import inspect
import re

from editkit.registry import hookspecs
from tests.editkit.benchmark.fakes import ROOT

ROW = re.compile(r"^\| `(editkit_\w+)(\([^`]*)` \| ", re.MULTILINE)


def test_the_guide_lists_every_hook_with_its_signature() -> None:
    guide = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8").replace("\\|", "|")
    hooks = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("editkit_")}
    assert dict(ROW.findall(guide)) == {
        name: str(inspect.signature(hook)).replace("'", "") for name, hook in hooks.items()
    }
