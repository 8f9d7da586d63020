"""Several processes of one run, started by torchrun: who does which part, and how the parts come together.

With one process every function is what it would be without this module.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

# A failure that all processes have in common reaches them within a step; one that does not must not hold up the others.
PATIENCE = timedelta(seconds=30)


def start() -> None:
    """Joins the processes that torchrun started; nothing where it did not."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        from accelerate import PartialState

        # While the first process scores, the others wait for longer than the libraries' 10 to 30 minutes.
        PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=2))


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Of this process, from 0."""
    return dist.get_rank() if size() > 1 else 0


def report(run: str, error: Exception) -> None:
    """Tells the other processes, which may be waiting for this one, that a run has failed here."""
    if size() > 1:
        _notes().set(f"{run}/{rank()}", f"{type(error).__name__}: {error}")


def reported(run: str) -> dict[int, str]:
    """What processes have told of a run's failure, by rank."""
    keys = {number: f"{run}/{number}" for number in range(size())} if size() > 1 else {}
    return {number: _notes().get(key).decode() for number, key in keys.items() if _notes().check([key])}


def lost(run: str, error: Exception) -> bool:
    """Whether an error only says that another process is gone, which did not fail but was killed."""
    unreachable = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
    return size() > 1 and unreachable and not reported(run)


def regroup(run: str) -> None:
    """After a failure: goes on once every process has reported one of the same run.

    Raises:
        SystemExit: one has not, and may be waiting for this one without end; torchrun then ends it.
    """
    if size() > 1:
        try:
            _notes().wait([f"{run}/{number}" for number in range(size())], PATIENCE)
        except RuntimeError:  # each kind of store has its own
            sys.exit(1)


def _notes() -> dist.Store:
    """What every process can write and read without the others' help."""
    return dist.PrefixStore("failures", dist.distributed_c10d._get_default_store())


def mine(parts: Sequence[T]) -> list[T]:
    """The parts that this process does: every size()-th."""
    return list(parts[rank() :: size()])


def total(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if size() > 1:
        shared = tensor.to(_meeting_place(tensor))
        dist.all_reduce(shared)
        tensor.copy_(shared)
    return tensor


def from_first(tensors: Iterable[Tensor]) -> None:
    """Gives every process the first one's values, in place."""
    if size() > 1:
        for tensor in tensors:
            shared = tensor.to(_meeting_place(tensor)).contiguous()
            dist.broadcast(shared, src=0)
            tensor.copy_(shared)


def wait_for_all() -> None:
    """Returns when every process has come so far."""
    if size() > 1:
        dist.barrier()


def _meeting_place(tensor: Tensor) -> torch.device:
    """Where the processes can exchange a tensor: NCCL does so on GPUs only."""
    return torch.device("cuda") if dist.get_backend() == "nccl" else tensor.device


def told_by_first(value: T) -> T:
    """The first process's value, in every process."""
    box = [value]
    if size() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def shared_out(names: Sequence[str], compute: Callable[[str], T]) -> dict[str, T]:
    """`compute` of every name, each done by one process and handed to all: every process holds the same bits."""
    if size() == 1:
        return {name: compute(name) for name in names}
    done: dict[str, Any] = {name: compute(name) for name in mine(names)}
    for index, name in enumerate(names):
        box = [done.get(name)]
        dist.broadcast_object_list(box, src=index % size())
        done[name] = box[0]
    return {name: done[name] for name in names}
