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

from bench.runs.record import HASH_DIGITS, OUTCOMES

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
        tasks, metrics = _split(text) or _parsed(text)
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError, json.JSONDecodeError) as error:
        print(f"warning: items left out, {path}: {type(error).__name__}: {error}", file=sys.stderr)
        return {}
    return {
        (one.task, one.filtered, metric): Items(one.digest, values)
        for one in tasks
        for metric in metrics[one.places[0]]
        if (values := _numbers([metrics[place].get(metric) for place in one.places])) is not None
    }


@dataclass(frozen=True)
class _Task:
    """The items of one task and filter: their digest, and their lines in the order of the data."""

    task: str
    filtered: str
    digest: int
    places: tuple[int, ...]


def _parsed(text: str) -> tuple[tuple[_Task, ...], list[dict[str, Any]]]:
    """The tasks of a file, and of each line its metrics."""
    # One array is read in half the time of so many lines; a newline inside a string is written as an escape.
    rows: list[dict[str, Any]] = json.loads(f"[{text.replace(chr(10), ',')}]")
    return _tasks(rows), [row["metrics"] for row in rows]


def _split(text: str) -> tuple[tuple[_Task, ...], list[dict[str, Any]]] | None:
    """The same in a quarter of the time; None for lines that are not as bench.score writes them.

    A line names its item, then come target and response, which nobody reads here, then the metrics. Runs of a study
    have the names in common, and items the few values that metrics have, so each is parsed once. The marks are never
    part of a text: there a quote has a backslash before it.
    """
    heads, metrics = [], []
    for line in text.split("\n"):
        head, target, rest = line.partition(', "target": ')
        _, found, tail = rest.rpartition(', "metrics": ')
        if not target or not found:
            return None
        heads.append(head)
        metrics.append(tail)
    try:
        return _tasks_of(",".join(f"{head}}}" for head in heads)), [_metrics(tail) for tail in metrics]
    except (json.JSONDecodeError, KeyError, TypeError):
        return None


@lru_cache(maxsize=64)
def _tasks_of(heads: str) -> tuple[_Task, ...]:
    return _tasks(json.loads(f"[{heads}]"))


@lru_cache(maxsize=10_000)
def _metrics(tail: str) -> dict[str, Any]:
    return json.loads(f'{{"metrics": {tail}')["metrics"]


def _tasks(rows: list[dict[str, Any]]) -> tuple[_Task, ...]:
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        found[row["task"], row["filter"]].append(place)
    tasks = []
    for (task, filtered), places in found.items():
        places.sort(key=lambda place: rows[place]["doc_id"])
        named = (f"{rows[place]['doc_id']} {rows[place]['doc_hash'][:HASH_DIGITS]}" for place in places)
        tasks.append(_Task(task, filtered, zlib.crc32(" ".join(named).encode()), tuple(places)))
    return tuple(tasks)


def _numbers(values: list[Any]) -> NDArray[np.floating] | None:
    try:
        array = np.array(values, dtype=float)
    except (TypeError, ValueError):
        return None
    shaped = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 2)
    return array if shaped and np.isfinite(array).all() else None
