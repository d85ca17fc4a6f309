"""A figure that a notebook shows by itself, without matplotlib's global state."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["ShownFigure"]


class ShownFigure(Figure):
    """As any figure; the last expression of a notebook's cell is drawn below it."""

    def __init__(self, *, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), layout="constrained", dpi=130)
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png")
        return content.getvalue()
