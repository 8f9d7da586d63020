"""One self-contained HTML page a study: its tables, figures and runs, with everything inside the file.

Nothing is loaded: style, script and data stand in the page, figures are data URIs, and the Content-Security-Policy
admits this one style and this one script by their hashes (https://www.w3.org/TR/CSP3/#grammardef-hash-source). What a
record says reaches the page as JSON and becomes text, never markup.
"""

from bench.report.page.write import PageTable, write_page

__all__ = ["PageTable", "write_page"]
