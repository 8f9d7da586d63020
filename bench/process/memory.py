"""How much memory this process and those that it starts may still take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

_OWN, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Memory that is free or can be freed: of the machine, or below the limit of a container or a Slurm job."""
    return min([psutil.virtual_memory().available, *_below_limits()])


def _below_limits() -> Iterator[int]:
    """What is left below the limit of each control group of this process that has one (version 2, or 1)."""
    lines = _OWN.read_text().splitlines() if _OWN.is_file() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root, limit, used, cached = (
                (_CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
                if controllers
                else (_CGROUPS, "memory.max", "memory.current", "inactive_file")
            )
            inner = root / path.lstrip("/")
            for folder in (inner, *inner.parents):
                if folder.is_relative_to(root) and (folder / limit).is_file():
                    said = (folder / limit).read_text().strip()
                    if said != "max":
                        taken = int((folder / used).read_text()) - _statistic(folder / "memory.stat", cached)
                        yield max(0, int(said) - taken)


def _statistic(path: Path, name: str) -> int:
    """A line of memory.stat; the page cache that was not used lately is given back when memory is asked for."""
    lines = (line.split() for line in path.read_text().splitlines())
    return next((int(value) for key, value in lines if key == name), 0)
