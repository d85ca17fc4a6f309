"""Results as tables (text, Markdown, LaTeX, CSV) and as an HTML page."""

from editkit.report.sections import Section, sections_of
from editkit.report.terminal import run_table

__all__ = ["Section", "run_table", "sections_of"]
