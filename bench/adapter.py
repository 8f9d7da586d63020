"""PEFT holds the adapters; this module adds, reaches, fills and saves them, for all methods alike.

LoRA-XS and LoRA-SB train a matrix between A and B. PEFT has no such layer, so one is registered here through its
extension point for custom LoRA modules. An adapter of that kind that PEFT reloads by itself loses lora_R silently.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear as LoraLinear
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from bench.methods.base import AdapterMethod, Factors, Method, Rank, scaling_value

ADAPTER = "default"  # PEFT's name for the first adapter


class LoraRLinear(LoraLinear):
    """`base(x) + s B R A x`, with R (r, r) beside PEFT's A and B."""

    adapter_layer_names = (*LoraLinear.adapter_layer_names, "lora_R")

    def update_layer(self, adapter_name: str, r: int, lora_alpha: int, config: LoraConfig, **kwargs: Any) -> None:
        """PEFT calls this from __init__ to make the adapter's parts."""
        if not hasattr(self, "lora_R"):
            self.lora_R = nn.ModuleDict()
        self.lora_R[adapter_name] = nn.Linear(r, r, bias=False)
        super().update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config, **kwargs)

    def get_delta_weight(self, adapter: str) -> Float[Tensor, "out in"]:
        """s B R A; what merging adds to the base weight."""
        parts = (_linear(part, adapter).weight for part in (self.lora_B, self.lora_R, self.lora_A))
        return self.scaling[adapter] * torch.linalg.multi_dot(list(parts))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As PEFT's own layer, with R after A."""
        if self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        result = self.base_layer(x, *args, **kwargs)
        dtype = result.dtype
        for name in self.active_adapters:
            lora_A = _linear(self.lora_A, name)
            dropped = self.lora_dropout[name](self._cast_input_dtype(x, lora_A.weight.dtype))
            inner = _linear(self.lora_R, name)(lora_A(dropped))
            result = result + self.scaling[name] * _linear(self.lora_B, name)(inner)
        return result.to(dtype)


def _linear(parts: nn.ModuleDict, adapter: str) -> nn.Linear:
    """One adapter's share of lora_A, lora_B or lora_R."""
    return cast(nn.Linear, parts[adapter])


@dataclass(frozen=True)
class AdaptedLayer:
    """One target layer of the model in training: a plain nn.Linear, or PEFT's layer around it.

    Attributes:
        name: path of the layer in the pretrained model.
        module: whose input and output a hook sees.
        scaling: s; 1 where there is no adapter.
        trains: which of its tensors the optimiser moves.
        shifted: whether the base weight is W - s B0 A0 instead of the pretrained W.
    """

    name: str
    module: nn.Module
    scaling: float
    trains: frozenset[str]
    shifted: bool

    @property
    def weight(self) -> nn.Parameter:
        """The base weight (out, in), without the adapter."""
        base = self.module.base_layer if isinstance(self.module, LoraLinear) else self.module
        return cast(nn.Parameter, base.weight)

    def parameters(self) -> dict[str, nn.Parameter]:
        """lora_A, lora_B and, where there is one, lora_R; empty without an adapter."""
        if not isinstance(self.module, LoraLinear):
            return {}
        parts = ("lora_A", "lora_B", "lora_R")
        return {part: getattr(self.module, part)[ADAPTER].weight for part in parts if hasattr(self.module, part)}

    def factors(self) -> Factors | None:
        """A float32 copy of the factors as they stand; None without an adapter."""
        parameters = self.parameters()
        return Factors(**{k: v.detach().float().clone() for k, v in parameters.items()}) if parameters else None


def target_layers(model: PreTrainedModel, target_modules: tuple[str, ...]) -> dict[str, nn.Linear]:
    """The linear layers whose last name is among `target_modules`, in the model's order.

    Raises:
        ValueError: nothing matches.
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    found = {name: module for name, module in linear.items() if name.rpartition(".")[2] in target_modules}
    if not found:
        choices = sorted({name.rpartition(".")[2] for name in linear})
        raise ValueError(
            f"model.target_modules={list(target_modules)} matches no linear layer; this model has {choices}"
        )
    return found


def check_rank(layers: dict[str, nn.Linear], rank: Rank) -> None:
    """Refuses a rank that a target layer cannot have.

    Raises:
        ValueError: r is larger than the smaller side of some layer.
    """
    for name, layer in layers.items():
        smaller = min(layer.weight.shape)
        if rank.r > smaller:
            shape = " x ".join(map(str, layer.weight.shape))
            raise ValueError(
                f"rank.r={rank.r} is larger than the smaller side {smaller} of {name} ({shape}); take a smaller rank"
            )


def add(
    model: PreTrainedModel, method: Method, rank: Rank, layers: dict[str, nn.Linear]
) -> tuple[PreTrainedModel, list[AdaptedLayer]]:
    """Adds what the method trains and freezes the rest; float32 masters for every trainable tensor.

    Args:
        layers: the target layers by name, as target_layers returns them.

    Returns:
        The model to train and its adapted layers; the factors are zero until `fill` is called.
    """
    if not isinstance(method, AdapterMethod):
        train_all = "weight" in method.trains
        model.requires_grad_(train_all)
        model = model.float() if train_all else model
        return model, [AdaptedLayer(name, module, 1.0, method.trains, False) for name, module in layers.items()]
    scaling = scaling_value(method.scaling, rank)
    # lora_alpha is chosen so that PEFT's own α/r is the method's s, whatever its rule.
    alpha = cast(int, scaling * rank.r)  # PEFT says int and takes any number
    config = LoraConfig(r=rank.r, lora_alpha=alpha, target_modules=list(layers), init_lora_weights=False)
    if "lora_R" in method.trains:
        config._register_custom_module({nn.Linear: LoraRLinear})
    with torch.random.fork_rng():  # PEFT draws values that `fill` replaces
        wrapped = get_peft_model(model, config)
    modules = dict(cast(nn.Module, wrapped.base_model.model).named_modules())
    adapted = [AdaptedLayer(name, modules[name], scaling, method.trains, method.keeps_function) for name in layers]
    for layer in adapted:
        for part, parameter in layer.parameters().items():
            parameter.data = torch.zeros_like(parameter, dtype=torch.float32)
            parameter.requires_grad_(part in method.trains)
    return cast(PreTrainedModel, wrapped), adapted  # a PeftModel passes on what it does not have itself


@torch.no_grad()
def fill(layer: AdaptedLayer, factors: Factors) -> None:
    """Writes the factors and, where the base is shifted, takes s B A out of the base weight.

    The residual is computed in float32 from the factors as they were stored, and rounded once.
    """
    for part, parameter in layer.parameters().items():
        parameter.copy_(getattr(factors, part))
    stored = layer.factors()
    assert stored is not None, f"{layer.name} has no adapter to fill"
    product = stored.product()
    if layer.shifted and product.any():
        residual = layer.weight.float() - layer.scaling * product
        layer.weight.copy_(residual.to(layer.weight.dtype))


def save(model: nn.Module, layers: list[AdaptedLayer], initial: dict[str, Factors], path: Path) -> None:
    """Writes what the run trained, as safetensors.

    An adapter: its factors, those it started from (a shifted base is W - s B0 A0) and, as metadata, its scaling.
    Full fine-tuning: all weights. The pretrained model: an empty file.
    """
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        for part, parameter in layer.parameters().items():
            tensors[f"{layer.name}.{part}"] = parameter.detach().cpu().contiguous()
            tensors[f"{layer.name}.initial.{part}"] = getattr(initial[layer.name], part).cpu().contiguous()
    if not tensors:
        trained = {name: p.detach().cpu() for name, p in model.named_parameters() if p.requires_grad}
        tensors = {name: tensor.contiguous() for name, tensor in trained.items()}
    scaling = layers[0].scaling if layers else 1.0
    save_file(tensors, path, metadata={"format": "pt", "scaling": repr(scaling)})
