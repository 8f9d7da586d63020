"""The file of what a run trained: written, read, and loaded into the pretrained model without loss."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from bench.methods.base import PLAIN, AdapterOptions, Factors, Method, Rank
from bench.model import adapter
from bench.model.adapter import FACTORS, MAGNITUDE, AdaptedLayer
from bench.model.layers import heads
from bench.process.files import set_usual_mode
from bench.systems.base import System
from bench.systems.none import NO_SYSTEM


def save(model: nn.Module, layers: list[AdaptedLayer], initial: dict[str, Factors], path: Path) -> None:
    """Writes what the run trained, as safetensors, with the scaling as metadata.

    Of an adapter: its factors, its starting factors (a shifted base is W - s B0 A0), and a head. Of full fine-tuning:
    all weights. Of the pretrained model: no tensor.

    Args:
        model: the trained model.
        layers: its target layers.
        initial: the starting factors by layer name.
        path: the file to write.
    """
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        for part, parameter in layer.parameters().items():
            tensors[f"{layer.name}.{part}"] = parameter.detach().cpu().contiguous()
            if part in FACTORS and (start := getattr(initial[layer.name], part)) is not None:
                tensors[f"{layer.name}.initial.{part}"] = start.cpu().contiguous()
    if tensors:
        tensors |= {name: p.detach().cpu().contiguous() for name, p in _head_parameters(model).items()}
    else:
        trained = {name: p.detach().cpu() for name, p in model.named_parameters() if p.requires_grad}
        tensors = {name: tensor.contiguous() for name, tensor in trained.items()}
    scaling = next((layer.scaling for layer in layers if layer.parameters()), 1.0)
    save_file(tensors, path, metadata={"scaling": repr(scaling)})  # more entries would change places
    set_usual_mode(path)


def _head_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    found = heads(model).items()
    return {f"{head}.{name}": parameter for head, module in found for name, parameter in module.named_parameters()}


@dataclass(frozen=True)
class Saved:
    """What `save` wrote: the scaling, and every tensor by name."""

    scaling: float
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> Saved:
        """Reads a file that `save` wrote."""
        with safe_open(path, "pt") as file:
            scaling = float(file.metadata()["scaling"])
        return cls(scaling, load_file(path))

    @property
    def names(self) -> list[str]:
        """Names of the layers that have an adapter."""
        return [key.removesuffix(".lora_A") for key in self.trained if key.endswith(".lora_A")]

    @property
    def trained(self) -> dict[str, Tensor]:
        """Every tensor except starting factors."""
        return {key: tensor for key, tensor in self.tensors.items() if ".initial." not in key}

    @property
    def head(self) -> dict[str, Tensor]:
        """The tensors of a trained head, beside those of the adapters."""
        ends = tuple(f".{part}" for part in (*FACTORS, MAGNITUDE))
        return {key: tensor for key, tensor in self.trained.items() if not key.endswith(ends)}

    def parts(self, name: str) -> dict[str, Tensor]:
        """A layer's trained factors and magnitudes."""
        parts = {part: self.tensors.get(f"{name}.{part}") for part in (*FACTORS, MAGNITUDE)}
        return {part: tensor for part, tensor in parts.items() if tensor is not None}

    def initial(self, name: str) -> Factors:
        """A layer's starting factors."""
        return Factors(*(cast(Tensor, self.tensors.get(f"{name}.initial.{part}")) for part in FACTORS))


@torch.no_grad()
def load(
    saved: Saved,
    model: PreTrainedModel,
    method: Method,
    rank: Rank,
    layers: dict[str, nn.Linear],
    options: AdapterOptions = PLAIN,
    system: System = NO_SYSTEM,
) -> tuple[PreTrainedModel, list[AdaptedLayer], dict[str, Factors]]:
    """Turns the pretrained model, in place, into the one that was saved: R, magnitudes and shifted base included.

    Args:
        saved: what the run trained.
        model: the pretrained model that the run started from.
        method: the run's.
        rank: the run's.
        layers: the target layers by name, as target_layers returns them.
        options: the run's DoRA and LoRA+.
        system: the run's.

    Returns:
        Model and target layers as `adapter.add` returns them, and each adapter's starting factors.

    Raises:
        ValueError: the weights are not of this method and rank.
    """
    ranks = {name: len(saved.parts(name).get("lora_A", ())) for name in layers}
    model, adapted = adapter.add(model, method, rank, layers, options, ranks if any(ranks.values()) else None, system)
    adapters = [layer for layer in adapted if layer.parameters()]
    initial = {name: saved.initial(name) for name in saved.names}
    if adapters and adapters[0].scaling != saved.scaling:
        raise ValueError(f"trained at scaling {saved.scaling}, not {adapters[0].scaling}: method or rank differs")
    expected = {f"{layer.name}.{part}": value for layer in adapters for part, value in layer.parameters().items()}
    if expected:
        expected |= _head_parameters(model)
    else:
        expected = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if saved.trained.keys() != expected.keys():
        differing = sorted(saved.trained.keys() ^ expected.keys())
        raise ValueError(
            f"these weights are not what {system.title(method)} trains in this model: {', '.join(differing[:3])}"
        )
    for layer in adapters:
        adapter.shift(layer, initial[layer.name])
    for name, parameter in expected.items():
        parameter.copy_(saved.tensors[name])
    return model, adapted, initial
