"""Records -> tables, figures and data frames, by records alone; imports no torch."""

from bench.report.read.frames import alignment, curves, frame

__all__ = ["alignment", "curves", "frame"]
