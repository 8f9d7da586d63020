"""Random streams: one generator a stage, derived from the run's seed by name; no stage changes another's draws."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, stage: str) -> int:
    """A 63-bit seed for one stage of one run; equal inputs give equal seeds on every machine."""
    digest = hashlib.sha256(f"{seed}/{stage}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def stream(seed: int, stage: str) -> torch.Generator:
    """A CPU generator of its own for one stage of one run."""
    return torch.Generator().manual_seed(derive(seed, stage))


def seed_global(seed: int) -> None:
    """Seeds the global streams; called once a run, by the spine, for what libraries draw from them (dropout)."""
    random.seed(derive(seed, "global"))
    np.random.seed(derive(seed, "global") % 2**32)
    torch.manual_seed(derive(seed, "global"))


@contextmanager
def preserved() -> Iterator[None]:
    """Leaves the global streams of random, numpy and torch (all devices) as they were, whatever happens inside."""
    python, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)
