"""Storage of gradients and other sums over batches, between two passes: in memory, on the host, or in scratch files.

An accumulator is taken out, added to, and put back, so that the device holds one layer's at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import torch
from torch import Tensor

Key = tuple[str, str]  # statistic and layer
Place = Literal["memory", "host", "scratch"]

SMALL_BYTES = 64 * 2**20
MOST_OF_WEIGHTS = 0.15  # of the target weights' bytes: what accumulators may take of the device's memory
MOST_OF_FREE_MEMORY = 0.5


class InMemory:
    """Accumulators stay on their device."""

    def __init__(self) -> None:
        self._totals: dict[Key, Tensor] = {}

    def take(self, key: Key) -> Tensor | None:
        """The accumulator, which the caller may change; None before the first batch."""
        return self._totals.pop(key, None)

    def put(self, key: Key, total: Tensor) -> None:
        """Stores the accumulator; the caller must drop its reference."""
        self._totals[key] = total


class OnHost:
    """Accumulators of a GPU wait in page-locked memory of the host."""

    def __init__(self) -> None:
        self._totals: dict[Key, tuple[Tensor, torch.device]] = {}

    def take(self, key: Key) -> Tensor | None:
        """A copy on the device from which it was put."""
        kept = self._totals.get(key)
        return None if kept is None else kept[0].to(kept[1], non_blocking=True)

    def put(self, key: Key, total: Tensor) -> None:
        """Copies the accumulator to the host, into the buffer of its first copy."""
        if key not in self._totals:
            host = torch.empty(total.shape, dtype=total.dtype, pin_memory=total.is_cuda)
            self._totals[key] = host, total.device
        self._totals[key][0].copy_(total)


class InScratchFiles:
    """Accumulators wait in a temporary folder, one file each; the folder is deleted with the object."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lora-init-bench-")
        self._kept: dict[Key, tuple[Path, torch.Size, np.dtype, torch.device]] = {}

    def take(self, key: Key) -> Tensor | None:
        """The accumulator, read from its file."""
        if key not in self._kept:
            return None
        path, shape, dtype, device = self._kept[key]
        return torch.from_numpy(np.fromfile(path, dtype)).reshape(shape).to(device)

    def put(self, key: Key, total: Tensor) -> None:
        """Writes the accumulator over its earlier value."""
        content = total.cpu().contiguous().numpy()
        path = self._kept[key][0] if key in self._kept else Path(self._folder.name) / str(len(self._kept))
        content.tofile(path)
        self._kept[key] = path, total.shape, content.dtype, total.device


def choose_place(sum_bytes: int, weight_bytes: int, device: torch.device) -> Place:
    """Chooses the storage of accumulators by their size.

    Args:
        sum_bytes: bytes of all accumulators together.
        weight_bytes: bytes of the target weights, in their stored dtype.
        device: the model's.

    Returns:
        memory if they take at most SMALL_BYTES or MOST_OF_WEIGHTS; else the host of a GPU with enough free memory; else
        scratch files.
    """
    if sum_bytes <= max(MOST_OF_WEIGHTS * weight_bytes, SMALL_BYTES):
        return "memory"
    if device.type != "cpu" and sum_bytes <= MOST_OF_FREE_MEMORY * psutil.virtual_memory().available:
        return "host"
    return "scratch"


Sums = InMemory | OnHost | InScratchFiles
PLACES: Mapping[Place, type[Sums]] = {"memory": InMemory, "host": OnHost, "scratch": InScratchFiles}
