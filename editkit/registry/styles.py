"""The style of each editor in figures, pages and charts."""

from __future__ import annotations

from collections.abc import Mapping

from editkit.palette import Style, distinct_styles
from editkit.registry.plugins import default_registry
from editkit.registry.specs import EditorSpec

__all__ = ["styles_of"]


def styles_of(editors: Mapping[str, str]) -> dict[str, Style]:
    """A style for each label of a figure, no two with the same colour and marker.

    Args:
        editors: Labels, in the order in which they are drawn, with the name of the editor of each:
            ``{"rome (layer 3)": "rome"}``.

    Returns:
        The style that the editor's plugin declares, with another marker if labels share an editor;
        an editor that declares none, or is not installed, has a style that its name picks.
    """
    return distinct_styles({label: _declared(editor) for label, editor in editors.items()})


def _declared(editor: str) -> Style | None:
    registry = default_registry()
    if not registry.has("editor", editor):
        return None
    spec = registry.get("editor", editor).spec
    return spec.style if isinstance(spec, EditorSpec) else None
