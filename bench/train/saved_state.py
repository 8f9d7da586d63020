"""The files of model and optimiser in a checkpoint: trained parameters and Adam's moments, gathered if sharded.

transformers' own checkpoint of an adapter leaves out a classification head that trains with it, and that of a sharded
model repeats every frozen weight.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from bench.process import ranks
from bench.train.sharding import gathered

PARAMETERS, OPTIMIZER = "trained.safetensors", "optimizer.pt"


def save_parameters(model: nn.Module, folder: Path) -> None:
    """Writes every trained parameter; every rank must call it, rank 0 writes."""
    tensors = {name: gathered(p).cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    if ranks.rank() == 0:
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
        parameter.copy_(_laid_like(parameter, saved[name]))


def save_moments(model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
    """Writes the optimiser's state by parameter; every process has to call it, the first one writes."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    state = {
        names[parameter]: {key: gathered(value).cpu() for key, value in moments.items()}
        for parameter, moments in optimizer.state.items()
    }
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    if ranks.rank() == 0:
        torch.save({"state": state, "groups": groups}, folder / OPTIMIZER)


def load_moments(model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
    """Loads the moments that `save_moments` wrote into the optimiser."""
    saved: dict[str, Any] = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
    parameters = dict(model.named_parameters())
    for name, moments in saved["state"].items():
        parameter = parameters[name]
        # Adam counts its steps in a tensor without dimensions, on the CPU.
        optimizer.state[parameter] = {k: _laid_like(parameter, v) if v.dim() else v for k, v in moments.items()}
    for group, kept in zip(optimizer.param_groups, saved["groups"], strict=True):
        group.update(kept)


def _laid_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    tensor = tensor.to(parameter.device)
    if not isinstance(parameter, DTensor):
        return tensor
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
