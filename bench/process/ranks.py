"""Several processes of one run, started by torchrun: torch.distributed in the few collectives that a run needs.

With one process every function returns what it was given.
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

# A failure that all ranks share reaches them within one step; after a failure of one rank the others wait this long.
PATIENCE = timedelta(seconds=30)


def start() -> None:
    """Initialises the process group if torchrun started several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        from accelerate import PartialState

        # While rank 0 scores, the others wait for longer than the libraries' default of 10 to 30 minutes.
        PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=2))


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Rank of this process, from 0."""
    return dist.get_rank() if size() > 1 else 0


def report(run: str, error: Exception) -> None:
    """Publishes to the other ranks, which may be waiting for this one, that a run failed here."""
    if size() > 1:
        _failures().set(f"{run}/{rank()}", f"{type(error).__name__}: {error}")


def reported(run: str) -> dict[int, str]:
    """The failures of a run that ranks have published so far, by rank."""
    keys = {number: f"{run}/{number}" for number in range(size())} if size() > 1 else {}
    return {number: _failures().get(key).decode() for number, key in keys.items() if _failures().check([key])}


def is_peer_loss(run: str, error: Exception) -> bool:
    """Whether an error only says that another process was killed: communication broke, and no rank published one."""
    unreachable = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
    return size() > 1 and unreachable and not reported(run)


def barrier_after_failure(run: str) -> None:
    """Returns once every rank has published a failure of the same run.

    Raises:
        SystemExit: a rank has not within PATIENCE: it may wait for this one without end, and torchrun then ends it.
    """
    if size() > 1:
        try:
            _failures().wait([f"{run}/{number}" for number in range(size())], PATIENCE)
        except RuntimeError:  # each kind of store has its own
            sys.exit(1)


def _failures() -> dist.Store:
    """The key-value store of failures, which a rank reads and writes without the others' taking part."""
    return dist.PrefixStore("failures", dist.distributed_c10d._get_default_store())


def shard(items: Sequence[T]) -> list[T]:
    """This rank's share of the items: every size()-th."""
    return list(items[rank() :: size()])


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over all ranks, in place."""
    if size() > 1:
        shared = tensor.to(_device(tensor))
        dist.all_reduce(shared)
        tensor.copy_(shared)
    return tensor


def largest(number: int) -> int:
    """The largest number of any rank."""
    if size() == 1:
        return number
    shared = torch.tensor(number)
    shared = shared.to(_device(shared))
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return int(shared)


def broadcast_(tensors: Iterable[Tensor]) -> None:
    """Overwrites the tensors of every rank with those of rank 0."""
    if size() > 1:
        for tensor in tensors:
            shared = tensor.to(_device(tensor)).contiguous()
            dist.broadcast(shared, src=0)
            tensor.copy_(shared)


def barrier() -> None:
    """Returns when every rank has called it."""
    if size() > 1:
        dist.barrier()


def _device(tensor: Tensor) -> torch.device:
    """The device on which ranks can exchange a tensor: NCCL does so on GPUs only."""
    return torch.device("cuda") if dist.get_backend() == "nccl" else tensor.device


def broadcast_object(value: T) -> T:
    """Rank 0's value, on every rank."""
    box = [value]
    if size() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def map_over_ranks(names: Sequence[str], compute: Callable[[str], T]) -> dict[str, T]:
    """`compute` of every name, each on one rank and broadcast from there: every rank holds the same bits."""
    if size() == 1:
        return {name: compute(name) for name in names}
    done: dict[str, Any] = {name: compute(name) for name in shard(names)}
    for index, name in enumerate(names):
        box = [done.get(name)]
        dist.broadcast_object_list(box, src=index % size())
        done[name] = box[0]
    return {name: done[name] for name in names}
