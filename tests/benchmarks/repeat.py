"""Repetitions in turns: contender 1, 2, 3, then 1, 2, 3 again, so that a slow minute of the machine meets all alike."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_began = time.perf_counter()


@dataclass(frozen=True)
class Options:
    """What the command line asks for; None leaves the number to the benchmark."""

    full: bool = False
    repetitions: int | None = None
    samples: int | None = None
    out: Path = Path("results/benchmarks")


def interleaved(name: str, contenders: Mapping[str, Callable[[], T]], repetitions: int) -> dict[str, list[T]]:
    """What each contender returned, repetition by repetition."""
    values: dict[str, list[T]] = {contender: [] for contender in contenders}
    for repetition in range(repetitions):
        for contender, run in contenders.items():
            say(f"{name}: {contender}, {repetition + 1} of {repetitions}")
            values[contender].append(run())
    return values


def say(line: str) -> None:
    """A line of progress on stderr, after the minutes since the start."""
    seconds = int(time.perf_counter() - _began)
    print(f"[{seconds // 60:3d}:{seconds % 60:02d}] {line}", file=sys.stderr, flush=True)
