"""What came out of runs, as tables for a terminal, Markdown, LaTeX and CSV, and as an HTML page."""

from editkit.benchmark.report.sections import Section, sections_of
from editkit.benchmark.report.table import run_table

__all__ = ["Section", "run_table", "sections_of"]
