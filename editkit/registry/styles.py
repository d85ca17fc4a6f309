"""The style of each editor in figures, pages and charts."""

from __future__ import annotations

from collections.abc import Mapping

from editkit.palette import Style, distinct_styles, named_style
from editkit.registry.plugins import Registry, default_registry
from editkit.registry.specs import EditorSpec

__all__ = ["style_of", "styles_of"]


def styles_of(
    editors: Mapping[str, str], groups: Mapping[str, str] | None = None
) -> dict[str, Style]:
    """A style for each label of a figure, no two with the same colour and marker.

    Args:
        editors: Labels, in the order in which they are drawn, with the name of the editor of each:
            ``{"rome (layer 3)": "rome"}``.
        groups: What labels of one editor have in common, by label: ``{"rome (layer 3, position
            last)": "position last"}``. None: labels are not grouped.

    Returns:
        The style of each label's editor, as :func:`style_of`. Labels that share an editor have its
        colour, with other markers and dashes from the second on; with too few markers for all, a
        colour for each group. No label has a style that another installed editor declares.
    """
    registry = default_registry()
    return distinct_styles(
        {label: style_of(name, registry) for label, name in editors.items()},
        reserved=tuple(_declared(registry).values()),
        groups=groups,
    )


def style_of(editor: str, registry: Registry | None = None) -> Style:
    """The style of an editor, wherever it is drawn.

    Args:
        editor: Its name.
        registry: Where to look for it; None: what is installed.

    Returns:
        The style that its plugin declares. An editor that declares none, or is not installed, has
        a style that its name picks among those that no installed editor declares.
    """
    declared = _declared(registry or default_registry())
    return declared.get(editor) or named_style(editor, tuple(declared.values()))


def _declared(registry: Registry) -> dict[str, Style]:
    return {
        offer.name: offer.spec.style
        for offer in registry.offers("editor")
        if isinstance(offer.spec, EditorSpec) and offer.spec.style is not None
    }
