"""Several processes of one run, started by torchrun: who does which part, and how the parts come together.

With one process every function is what it would be without this module.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


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
