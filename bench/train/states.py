"""What a checkpoint holds of model and optimiser: trained parameters and moments, whole also where they are sharded.

The library's own checkpoint of an adapter leaves out a classification head that trains beside it; its own checkpoint
of a sharded model repeats every frozen weight.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from bench import parallel
from bench.train.sharding import gathered

PARAMETERS, OPTIMIZER = "trained.safetensors", "optimizer.pt"
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def save_parameters(model: nn.Module, folder: Path) -> None:
    """Writes every parameter that trains; every process has to call it, the first one writes."""
    tensors = {name: gathered(p).cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    if parallel.rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / PARAMETERS)


@torch.no_grad()
def load_parameters(model: nn.Module, folder: Path) -> None:
    """Puts back what `save_parameters` wrote.

    Raises:
        ValueError: the file holds other parameters than the model trains.
    """
    saved = load_file(folder / PARAMETERS)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if {n: t.shape for n, t in saved.items()} != {n: p.shape for n, p in trained.items()}:
        raise ValueError(f"{folder / PARAMETERS} holds other parameters than this model trains")
    for name, parameter in trained.items():
        tensor = saved[name].to(parameter.device)
        if isinstance(parameter, DTensor):
            tensor = distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
        parameter.copy_(tensor)


def save_moments(model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
    """Writes Adam's moments by parameter, whole; every process has to call it, the first one writes."""
    state = get_optimizer_state_dict(model, optimizer, options=_WHOLE)
    if parallel.rank() == 0:
        torch.save(state, folder / OPTIMIZER)


def load_moments(model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
    """Puts back what `save_moments` wrote."""
    state = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
    set_optimizer_state_dict(model, optimizer, state, options=StateDictOptions(full_state_dict=True))
