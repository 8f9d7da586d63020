"""One self-contained HTML page per study: a Jinja2 template whose tables itables' DataTables bundle makes interactive.

Style, scripts, figures and data are inside the file, and its Content-Security-Policy forbids every request. Jinja2
escapes what records say, so a label that looks like markup is shown as text.
"""

from bench.report.page.write import PageTable, write_page

__all__ = ["PageTable", "write_page"]
