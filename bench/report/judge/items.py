"""Standard errors over the test items, the same for all runs that answered them.

A metric's `errors`, (num_units, num_runs), say how each unit moves the value of each run: the standard error over items
of any weighted sum of runs, such as a mean over seeds or a difference of two methods, is the norm of the same weighted
sum of them. A unit is an item or, where a dataset asks for the same fact in several wordings, the cluster of its items.
Of a mean, or another ratio of two sums, they are the residuals of the units (Liang and Zeger 1986, Biometrika 73, with
G / (G - 1) for G units), which for a mean is exact; of other metrics, such as correlations, they are the deviations of
resamples of the units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from bench.report.judge.metrics import OfItems
from bench.report.judge.statistics import Array

NUM_DRAWS = 1000  # of items: a standard error to 2 %


def item_errors(runs: Sequence[OfItems], dataset: str, digest: int, clusters: Sequence[str] | None = None) -> Array:
    """How each unit of items moves the metric of each run, (num_units, num_runs).

    Args:
        runs: one a run, of the same items in the same order, each (num_items, num_sums).
        dataset, digest: name the items: methods that answered the same ones share the resamples.
        clusters: of each item the name of its cluster; None where each item is a unit of its own.
    """
    if clusters is not None:
        runs = [_clustered(run, clusters) for run in runs]
    if all(run.is_ratio for run in runs):
        number = len(runs[0].items)
        residuals = [run.items[:, 0] - run.whole * run.items[:, 1] for run in runs]
        factor = math.sqrt(number / (number - 1)) if number > 1 else math.nan
        return np.column_stack(residuals) / runs[0].items[:, 1].sum() * factor
    draws = draw_items(runs, dataset, digest)
    return (draws - draws.mean(axis=0)) / math.sqrt(NUM_DRAWS - 1)


def standard_error(errors: Array) -> float:
    """The norm of the errors of one value, (num_units,), to the digits that are the same on every processor."""
    return float(f"{float(np.linalg.norm(errors)):.6g}")


def draw_items(runs: Sequence[OfItems], dataset: str, digest: int) -> Array:
    """The metric of each run on resampled items; a resample has the same items in every run.

    Args:
        runs: one a run, of the same units in the same order, each (num_units, num_sums).
        dataset, digest: name the items.

    Returns:
        (NUM_DRAWS, num_runs).
    """
    weights = _item_weights(dataset, digest, len(runs[0].items))
    summands = np.hstack([run.items for run in runs])
    whole = np.array_equal(summands, np.round(summands)) and np.abs(summands).sum() < 2**24
    # Sums of whole numbers are exact in float32; others are not, and differ from one processor to the next.
    sums = weights @ summands.astype(np.float32) if whole else weights.astype(float) @ summands
    parts = np.split(sums.astype(float), np.cumsum([run.items.shape[1] for run in runs])[:-1], axis=1)
    return np.column_stack([run.value(part) for run, part in zip(runs, parts, strict=True)])


@lru_cache(maxsize=4)
def _item_weights(dataset: str, digest: int, num_units: int) -> NDArray[np.float32]:
    """How often each resample has each unit, (NUM_DRAWS, num_units); the same for the same items."""
    generator = np.random.default_rng([crc32(dataset.encode()), digest])
    even = np.full(num_units, 1 / num_units)
    return generator.multinomial(num_units, even, size=NUM_DRAWS).astype(np.float32)


def _clustered(run: OfItems, clusters: Sequence[str]) -> OfItems:
    """The summands of each cluster instead of those of each item."""
    names, places = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.zeros((len(names), run.items.shape[1]))
    np.add.at(sums, places, run.items)
    return replace(run, items=sums)
