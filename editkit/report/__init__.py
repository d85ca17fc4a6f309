"""Results as tables (text, Markdown, LaTeX, CSV) and as an HTML page."""
