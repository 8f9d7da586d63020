"""Seconds and extra memory of a block of code, on the CPU or the GPU."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass
class Cost:
    """Of a finished block.

    Attributes:
        seconds: wall time, a GPU's queue emptied before and after.
        extra_bytes: the highest memory inside, above what was held before: of the GPU's allocator where there is one,
            else the resident set; None where the system does not tell.
    """

    seconds: float = 0.0
    extra_bytes: int | None = None


@contextmanager
def measured() -> Iterator[Cost]:
    """Measures what happens inside; the Cost is filled in at the end."""
    _release()
    before, cost = _reset_peak(), Cost()
    start = time.perf_counter()
    yield cost
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    cost.seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _resident("VmHWM")
    cost.extra_bytes = None if before is None or peak is None else peak - before


def _release() -> None:
    """Gives back what earlier work freed, so that it is not taken for memory in use, nor used without being counted."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _reset_peak() -> int | None:
    """Starts a new peak; returns the bytes held now."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak becomes the present resident set: proc(5)
    except OSError:
        return None
    return _resident("VmRSS")


def _resident(field: str) -> int | None:
    """A line of /proc/self/status, bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)
