"""Records -> tables, figures and data frames, by records alone; imports no torch."""

from bench.report.read.frames import alignment, curves, frame, runs

__all__ = ["alignment", "curves", "frame", "runs"]
