"""How far a sweep is, and how long the rest will take by what the runs that have ended took."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bench.process.terminal import ERASE
from bench.runs.folder import RunFolder
from bench.sweep import size

if TYPE_CHECKING:
    from bench.config import Run
    from bench.sweep.expansion import PlannedCell

LOGGED_SECONDS = 60.0  # between two lines in a log; on a terminal one line is written over and over
_SPEED = 1e11  # FLOP/s; only the ratios of the seconds that follow are used


class Countdown:
    """Counts the runs of a sweep that this process had done.

    Args:
        now: the clock, in seconds.
    """

    def __init__(self, now: float | None = None) -> None:
        self._began = self._said = time.monotonic() if now is None else now
        self._ended: dict[str, float] = {}
        self._costs: dict[str, float] = {}  # by run; 0 of one that was done before, which takes no time

    def ended(self, run: Run, planned: Iterable[PlannedCell], now: float | None = None) -> str:
        """A run has ended; returns how far the sweep is.

        Args:
            run: that has ended, however it did.
            planned: the cells of all stages, as far as they are known.
            now: as of the class.
        """
        self._ended[run.run_id] = self._costs.get(run.run_id) or _cost(run)
        left: dict[tuple[str, ...], float | None] = {}
        for cell in planned:
            if cell.run is None or cell.waits:
                left[cell.planned.stage, *cell.planned.overrides] = None if cell.run is None else _cost(cell.run)
            elif cell.run.run_id not in self._ended and (cost := self._cost_if_left(cell.run)):
                left[cell.run.run_id,] = cost
        elapsed = (time.monotonic() if now is None else now) - self._began
        text = f"{len(self._ended)} of {len(self._ended) + len(left)} runs ended in {_duration(elapsed)}"
        if not left:
            return text
        done = sum(self._ended.values())
        mean = done / len(self._ended)
        rest = sum(mean if cost is None else cost for cost in left.values())
        return f"{text}, about {_duration(elapsed * rest / done)} left"

    def _cost_if_left(self, run: Run) -> float:
        """Of a run that had not been done when it was first seen, else 0; its record is looked for that once."""
        if run.run_id not in self._costs:
            self._costs[run.run_id] = 0.0 if RunFolder.of(run).done else _cost(run)
        return self._costs[run.run_id]

    def show(self, text: str) -> None:
        """Writes the text over the last one on a terminal, and into a log at most once in LOGGED_SECONDS."""
        if sys.stdout.isatty():
            print(f"{text}{ERASE}", end="\r", flush=True)
        elif time.monotonic() - self._said >= LOGGED_SECONDS:
            self._said = time.monotonic()
            print(text, flush=True)


def _cost(run: Run) -> float:
    """Of a run beside others; of a model of unknown size 1."""
    return 1.0 if size.is_unknown(run) else size.seconds(run, _SPEED)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
