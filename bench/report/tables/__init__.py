"""Cells and comparisons -> tables as Markdown, CSV and LaTeX."""
