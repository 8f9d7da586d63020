"""The GPUs of this machine, one for each run: a lock file a GPU, which all sweeps of a user share."""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

DEVICES = "CUDA_VISIBLE_DEVICES"


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; does not import torch."""
    chosen = os.environ.get(DEVICES)
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    except OSError:
        return []
    return [str(i) for i, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


@contextmanager
def free_gpu(shares: int = 1) -> Iterator[str | None]:
    """Waits for one of several GPUs that no other run of this user has; yields None if there are fewer than two.

    Args:
        shares: number of runs that may have the same GPU.
    """
    names = gpus()
    if len(names) < 2:
        yield None
        return
    folder = Path(tempfile.gettempdir()) / f"lora-init-bench-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for share, name in itertools.cycle(itertools.product(range(shares), names)):
        lock = FileLock(folder / f"gpu-{name}-{share}.lock")
        with suppress(Timeout):
            lock.acquire(timeout=0.1)
            break
    try:
        yield name
    finally:
        lock.release()
