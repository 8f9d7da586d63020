"""Scores of cells -> means with intervals, paired comparisons and tests."""
