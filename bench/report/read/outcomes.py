"""The metrics of each scored item of a run, from outcomes.jsonl.gz; each file is read once a process."""

from __future__ import annotations

import sys
import zlib
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.runs.record import HASH_DIGITS, LOSS, OUTCOMES, CorruptRecordError, read_rows

NO_FILTER = "none"


@dataclass(frozen=True)
class Items:
    """One metric of the items of a run, in the order of the data.

    Attributes:
        digest: of which items these are: runs that have it in common answered the same ones.
        values: (num_items,) numbers, or (num_items, 2) pairs such as gold and predicted class.
        clusters: of each item what its cluster is called, such as the fact that it asks for; None where the run's
            dataset has no clusters, and in a record from before there were any.
        chance: the mean over the items of 1 / number of choices; None where answers are no choice.
    """

    digest: int
    values: NDArray[np.floating]
    clusters: tuple[str, ...] | None = None
    chance: float | None = None


def items_of(folder: Path, dataset: str, metric: str) -> Items | None:
    """The items of one column of a table; None where the run has none, or their metric is no number.

    Args:
        metric: with lm-eval's filter behind a comma, as in a record's scores.
    """
    path = folder / OUTCOMES
    if not path.is_file():
        return None
    name, _, filtered = metric.partition(",")
    filtered = filtered or (LOSS if name == LOSS else NO_FILTER)
    return _read(path, path.stat().st_mtime_ns).get((dataset, filtered, name))


@lru_cache(maxsize=20_000)
def _read(path: Path, _mtime: int) -> dict[tuple[str, str, str], Items]:
    """The items by task, filter and metric; empty, with a warning, if the file is torn."""
    try:
        rows = read_rows(path)
        tasks: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for row in sorted(rows, key=lambda row: row["doc_id"]):
            tasks[row["task"], row["filter"]].append(row)
        return {
            (*task, metric): Items(_digest(items), values, _clusters(items), _chance(items))
            for task, items in tasks.items()
            for metric in items[0]["metrics"]
            if (values := _numbers([item["metrics"].get(metric) for item in items])) is not None
        }
    except (CorruptRecordError, KeyError, TypeError, AttributeError) as error:
        print(f"warning: items left out, {path}: {type(error).__name__}: {error}", file=sys.stderr)
        return {}


def _digest(items: list[dict[str, Any]]) -> int:
    return zlib.crc32(" ".join(f"{item['doc_id']} {item['doc_hash'][:HASH_DIGITS]}" for item in items).encode())


def _clusters(items: list[dict[str, Any]]) -> tuple[str, ...] | None:
    named = [item.get("cluster") for item in items]
    return tuple(map(str, named)) if all(name is not None for name in named) else None


def _chance(items: list[dict[str, Any]]) -> float | None:
    """By the log-likelihoods of an item's choices, which its response lists."""
    responses = [str(item.get("response")) for item in items if item.get("choice") is not None]
    numbers = [text.count("True)") + text.count("False)") for text in responses]
    return fmean(1 / number for number in numbers) if len(numbers) == len(items) and all(numbers) else None


def _numbers(values: list[Any]) -> NDArray[np.floating] | None:
    try:
        array = np.array(values, dtype=float)
    except (TypeError, ValueError):
        return None
    shaped = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 2)
    return array if shaped and np.isfinite(array).all() else None
