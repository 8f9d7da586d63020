"""What commands print: the levels of run.log, and how a line on a terminal is written over."""

from __future__ import annotations

INFO, ERROR = "info", "error"  # beside "warning": each run as it begins and ends; nothing but what failed
ERASE = "\x1b[K"  # to the end of the line
