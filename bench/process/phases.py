"""Seconds and peak memory of each phase of a run: load, calibrate, initialise, train, measure, score."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate.utils.memory import clear_device_cache

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Phase:
    """The cost of one phase.

    Attributes:
        seconds: wall time.
        peak_bytes: the highest memory during the phase: allocated on the GPU if there is one, else the process's
            resident set; None if the system does not tell.
    """

    seconds: float
    peak_bytes: int | None


@dataclass
class Phases:
    """The phases of one run, by name; `enter` is called with a phase's name when it begins."""

    by_name: dict[str, Phase] = field(default_factory=dict)
    enter: Callable[[str], None] = lambda name: None

    @classmethod
    def begin(cls, enter: Callable[[str], None]) -> Phases:
        """For a new run: first returns the memory that earlier runs of the process have left to the system."""
        clear_device_cache(garbage_collection=True)
        with suppress(OSError, AttributeError):  # of the GNU C library only
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        return cls(enter=enter)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Measures its body as a phase; of a phase entered twice the seconds are summed and the higher peak is kept."""
        self.enter(name)
        _reset_peak()
        start = now()
        try:
            yield
        finally:
            before = self.by_name.get(name, Phase(0.0, None))
            peaks = [peak for peak in (before.peak_bytes, peak_bytes()) if peak is not None]
            self.by_name[name] = Phase(before.seconds + now() - start, max(peaks, default=None))

    def carry(self, name: str, seconds: float) -> None:
        """Adds the seconds that a resumed attempt had spent on a phase, up to its checkpoint."""
        here = self.by_name[name]
        self.by_name[name] = Phase(here.seconds + seconds, here.peak_bytes)

    def set_apart(self, name: str, seconds: float, within: str) -> None:
        """Moves `seconds` of the phase `within` to a phase of their own, which has the same peak."""
        whole = self.by_name[within]
        self.by_name[within] = Phase(whole.seconds - seconds, whole.peak_bytes)
        self.by_name[name] = Phase(seconds, whole.peak_bytes)


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError):
        _CLEAR.write_text("5")  # resets the peak resident set: proc(5)


def now() -> float:
    """time.perf_counter() after the GPU has finished all that was queued."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_bytes() -> int | None:
    """The highest memory since the phase began, as in `Phase`."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024
