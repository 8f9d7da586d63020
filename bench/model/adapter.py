"""PEFT holds the adapters; this module adds, reaches and fills them, for all methods alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from transformers import PreTrainedModel

from bench.methods.base import FACTORS, PLAIN, AdapterOptions, Factors, Method, Rank, scaling_value
from bench.model.layers import check_rank, check_start, heads, target_layers
from bench.model.lora_r import LoraRLinear

__all__ = [
    "AdaptedLayer",
    "add",
    "check_rank",
    "check_start",
    "count_parameters",
    "fill",
    "float_weight",
    "heads",
    "target_layers",
]

ADAPTER = "default"  # PEFT's name for the first adapter
MAGNITUDE = "lora_magnitude_vector"  # DoRA's, one number a row of W
PLAIN_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class AdaptedLayer:
    """One target layer of the model in training: a plain nn.Linear, or PEFT's layer around it.

    Attributes:
        name: path of the layer in the pretrained model.
        module: whose input and output a hook sees.
        scaling: s; 1 where there is no adapter.
        trains: which of its tensors the optimiser moves; none where the method gave the layer rank 0.
        shifted: whether the base weight is W - s B0 A0 instead of the pretrained W.
        lr_ratio: learning rate of B (and DoRA's magnitude) over that of A; LoRA+.
    """

    name: str
    module: nn.Module
    scaling: float
    trains: frozenset[str]
    shifted: bool
    lr_ratio: float = 1.0

    @property
    def weight(self) -> nn.Parameter:
        """The base weight (out, in), without the adapter."""
        base = self.module.get_base_layer() if isinstance(self.module, LoraLayer) else self.module
        return cast(nn.Parameter, base.weight)

    def parameters(self) -> dict[str, nn.Parameter]:
        """lora_A, lora_B and, where there are such, lora_R and DoRA's magnitude; empty without an adapter."""
        if not isinstance(self.module, LoraLayer):
            return {}
        parts = {part: getattr(self.module, part, {}) for part in (*FACTORS, MAGNITUDE)}
        return {part: adapters[ADAPTER].weight for part, adapters in parts.items() if ADAPTER in adapters}

    def factors(self) -> Factors | None:
        """A float32 copy of the factors as they stand; None without an adapter."""
        parameters = {name: value for name, value in self.parameters().items() if name in FACTORS}
        return Factors(**{k: v.detach().float().clone() for k, v in parameters.items()}) if parameters else None

    def magnitude(self) -> Float[Tensor, "out"] | None:
        """DoRA's row norms as they stand, float32; None without DoRA."""
        parameter = self.parameters().get(MAGNITUDE)
        return None if parameter is None else parameter.detach().float()

    def direction(self) -> Float[Tensor, "out in"]:
        """Base weight and adapter, float32: V of DoRA, otherwise the effective weight itself."""
        factors, base = self.factors(), float_weight(self.module)
        return base if factors is None else base + self.scaling * factors.product()

    def effective_weight(self) -> Float[Tensor, "out in"]:
        """The matrix that the layer multiplies its input with, float32."""
        V, magnitude = self.direction(), self.magnitude()
        return V if magnitude is None else (magnitude / V.norm(dim=1))[:, None] * V


def float_weight(module: nn.Module) -> Float[Tensor, "out in"]:
    """The base weight of a linear layer in float32, taken out of its quantisation where there is one."""
    base = module.get_base_layer() if isinstance(module, LoraLayer) else module
    weight = cast(Tensor, base.weight)
    plain = weight if weight.dtype in PLAIN_DTYPES else cast(Tensor, dequantize_module_weight(base))
    return plain.detach().float()


def count_parameters(model: nn.Module, *, trainable: bool = False) -> tuple[int, int]:
    """Parameters of a model without its head, and of the head; or of those only that are trained."""

    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad or not trainable)

    head = sum(map(count, heads(model).values()))
    return count(model) - head, head


def add(
    model: PreTrainedModel,
    method: Method,
    rank: Rank,
    layers: dict[str, nn.Linear],
    options: AdapterOptions = PLAIN,
    ranks: dict[str, int] | None = None,
) -> tuple[PreTrainedModel, list[AdaptedLayer]]:
    """Adds what the method trains and freezes the rest, but for a head; float32 masters for every trainable tensor.

    Args:
        layers: the target layers by name, as target_layers returns them.
        options: DoRA and LoRA+; neither by default.
        ranks: of each layer, where they differ; a layer of rank 0 is left without an adapter.

    Returns:
        The model to train and its layers; the factors are zero until `fill` is called.
    """
    if not method.has_adapter:
        train_all = "weight" in method.trains
        model.requires_grad_(train_all)
        model = model.float() if train_all else model
        _free_heads(model, method)
        return model, [AdaptedLayer(name, module, 1.0, method.trains, False) for name, module in layers.items()]
    scaling, ranks = scaling_value(method.scaling, rank), ranks or dict.fromkeys(layers, rank.r)
    with torch.random.fork_rng():  # PEFT draws values that `fill` replaces
        wrapped = get_peft_model(model, _peft_config(method, options, scaling, rank.r, ranks))
    modules = dict(cast(nn.Module, wrapped.base_model.model).named_modules())
    trains = method.trains | ({MAGNITUDE} if options.use_dora else set())
    adapted = [
        AdaptedLayer(name, modules[name], scaling, trains, method.keeps_function, options.loraplus_lr_ratio or 1.0)
        if ranks[name]
        else AdaptedLayer(name, modules[name], 1.0, frozenset(), False)
        for name in layers
    ]
    for layer in adapted:
        for part, parameter in layer.parameters().items():
            parameter.data = torch.zeros_like(parameter, dtype=torch.float32)
            parameter.requires_grad_(part in layer.trains)
    _free_heads(wrapped, method)
    return cast(PreTrainedModel, wrapped), adapted  # a PeftModel passes on what it does not have itself


def _free_heads(model: nn.Module, method: Method) -> None:
    """The head is new, so whatever trains anything trains it."""
    for head in heads(model).values():
        head.requires_grad_(bool(method.trains))


def _peft_config(method: Method, options: AdapterOptions, scaling: float, r: int, ranks: dict[str, int]) -> LoraConfig:
    """lora_alpha is chosen so that PEFT's own α/r is the method's s in every layer, whatever its rule."""
    other = {name: own for name, own in ranks.items() if own not in (0, r)}
    config = LoraConfig(
        r=r,
        lora_alpha=cast(int, scaling * r),  # PEFT says int and takes any number
        rank_pattern=other,
        alpha_pattern={name: scaling * own for name, own in other.items()},
        target_modules=[name for name, own in ranks.items() if own],
        init_lora_weights=False,
        use_dora=options.use_dora,
    )
    if "lora_R" in method.trains:
        config._register_custom_module({nn.Linear: LoraRLinear})
    return config


@torch.no_grad()
def fill(layer: AdaptedLayer, factors: Factors) -> None:
    """Writes the factors and, where the base is shifted, takes s B A out of the base weight.

    The residual is computed in float32 from the factors as they were stored, and rounded once. DoRA's magnitudes are
    set to the row norms of the effective weight.

    Raises:
        ValueError: the base weight is to be shifted, but is quantised.
    """
    parameters = layer.parameters()
    for part in FACTORS:
        if part in parameters:
            parameters[part].copy_(getattr(factors, part))
    stored = layer.factors()
    assert stored is not None, f"{layer.name} has no adapter to fill"
    if layer.shifted and not stored.vanishes(product := stored.product()):
        if layer.weight.dtype not in PLAIN_DTYPES:
            raise ValueError(
                f"{layer.name} is quantised ({layer.weight.dtype}), and this method takes its factors' product out of "
                "the weight; load the model in float32 or bfloat16, or take a method that leaves W as it is, such as hu"
            )
        layer.weight.copy_(torch.sub(layer.weight.float(), product, alpha=layer.scaling))
    if MAGNITUDE in parameters:
        parameters[MAGNITUDE].copy_(layer.direction().norm(dim=1))
