"""Where the running totals of calibration lie between two batches: in memory, on the host, or in scratch files.

A total is taken out, added to, and put back, so that only one layer's is at hand at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import psutil
import torch
from torch import Tensor

Key = tuple[str, str]  # what is summed, and the layer
Place = Literal["memory", "host", "scratch"]

SMALL_BYTES = 64 * 2**20
MOST_OF_WEIGHTS = 0.15  # of the target weights' bytes: what calibration may hold beside activations
MOST_OF_FREE_MEMORY = 0.5


class Sums(Protocol):
    """Totals by key."""

    def take(self, key: Key) -> Tensor | None:
        """The total, which the caller may change; None where there is none yet."""
        ...

    def put(self, key: Key, total: Tensor) -> None:
        """Keeps the total; the caller lets go of it."""
        ...


class InMemory:
    """Totals stay where they are."""

    def __init__(self) -> None:
        self._totals: dict[Key, Tensor] = {}

    def take(self, key: Key) -> Tensor | None:
        """The total itself, which is no longer kept."""
        return self._totals.pop(key, None)

    def put(self, key: Key, total: Tensor) -> None:
        """Keeps the tensor as it is."""
        self._totals[key] = total


class OnHost:
    """Totals of an accelerator wait in the host's page-locked memory."""

    def __init__(self) -> None:
        self._totals: dict[Key, tuple[Tensor, torch.device]] = {}

    def take(self, key: Key) -> Tensor | None:
        """A copy on the device that it came from."""
        kept = self._totals.get(key)
        return None if kept is None else kept[0].to(kept[1], non_blocking=True)

    def put(self, key: Key, total: Tensor) -> None:
        """Copies the total to the host, into the same memory as before."""
        if key not in self._totals:
            host = torch.empty(total.shape, dtype=total.dtype, pin_memory=total.is_cuda)
            self._totals[key] = host, total.device
        self._totals[key][0].copy_(total)


class InScratchFiles:
    """Totals wait in a temporary folder, one file each; the folder goes when the object goes."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lora-init-bench-")
        self._kept: dict[Key, tuple[Path, torch.Size, np.dtype, torch.device]] = {}

    def take(self, key: Key) -> Tensor | None:
        """The total, read back."""
        if key not in self._kept:
            return None
        path, shape, dtype, device = self._kept[key]
        return torch.from_numpy(np.fromfile(path, dtype)).reshape(shape).to(device)

    def put(self, key: Key, total: Tensor) -> None:
        """Writes the total over the earlier one."""
        content = total.cpu().contiguous().numpy()
        path = self._kept[key][0] if key in self._kept else Path(self._folder.name) / str(len(self._kept))
        content.tofile(path)
        self._kept[key] = path, total.shape, content.dtype, total.device


def choose_place(sum_bytes: int, weight_bytes: int, device: torch.device) -> Place:
    """Where totals of this size are to lie.

    Args:
        sum_bytes: of all totals together.
        weight_bytes: of the target weights as they are stored.
        device: of the model.

    Returns:
        memory where they are small against the weights or absolutely; else off the device: the host of a GPU, a
        scratch file of a CPU or of a host that has too little memory itself.
    """
    if sum_bytes <= max(MOST_OF_WEIGHTS * weight_bytes, SMALL_BYTES):
        return "memory"
    if device.type != "cpu" and sum_bytes <= MOST_OF_FREE_MEMORY * psutil.virtual_memory().available:
        return "host"
    return "scratch"


PLACES: Mapping[Place, type[Sums]] = {"memory": InMemory, "host": OnHost, "scratch": InScratchFiles}
