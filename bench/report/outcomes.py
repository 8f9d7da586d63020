"""What each scored item of a run came to, from outcomes.jsonl.gz: read once a process."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.record import HASH_DIGITS, OUTCOMES

NO_FILTER = "none"


@dataclass(frozen=True)
class Items:
    """One metric of the items of a run, in the order of the data.

    Attributes:
        digest: of which items these are: runs that have it in common answered the same ones.
        values: (num_items,) numbers, or (num_items, 2) pairs such as gold and predicted class.
    """

    digest: int
    values: NDArray[np.floating]


def items_of(folder: Path, dataset: str, metric: str) -> Items | None:
    """The items of one column of a table; None where the run has none, or their metric is no number.

    Args:
        metric: with lm-eval's filter behind a comma, as in a record's scores.
    """
    path = folder / OUTCOMES
    if not path.is_file():
        return None
    name, _, filtered = metric.partition(",")
    return _read(path, path.stat().st_mtime_ns).get((dataset, filtered or NO_FILTER, name))


@lru_cache(maxsize=20_000)
def _read(path: Path, _mtime: int) -> dict[tuple[str, str, str], Items]:
    """By task, filter and metric; only the numbers are kept. Empty, with a warning, where the file is torn."""
    try:
        text = gzip.decompress(path.read_bytes()).decode().rstrip("\n")
        # One array is read in half the time of so many lines; a newline inside a string is written as an escape.
        rows: list[dict[str, Any]] = json.loads(f"[{text.replace(chr(10), ',')}]")
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError, json.JSONDecodeError) as error:
        print(f"warning: items left out, {path}: {type(error).__name__}: {error}", file=sys.stderr)
        return {}
    tasks: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        tasks[row["task"], row["filter"]].append(row)
    found = {}
    for (task, filtered), items in tasks.items():
        items.sort(key=lambda row: row["doc_id"])
        digest = zlib.crc32(" ".join(f"{row['doc_id']} {row['doc_hash'][:HASH_DIGITS]}" for row in items).encode())
        for metric in items[0]["metrics"]:
            values = _numbers([row["metrics"].get(metric) for row in items])
            if values is not None:
                found[task, filtered, metric] = Items(digest, values)
    return found


def _numbers(values: list[Any]) -> NDArray[np.floating] | None:
    try:
        array = np.array(values, dtype=float)
    except (TypeError, ValueError):
        return None
    shaped = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 2)
    return array if shaped and np.isfinite(array).all() else None
