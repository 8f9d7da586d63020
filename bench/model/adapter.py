"""PEFT's adapters: adds them to a model, writes their factors and reads them, for all methods alike."""

from __future__ import annotations

import warnings
from collections.abc import Collection
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
from bench.model.layers import heads
from bench.model.lora_e import LoraELinear, LoraEOLinear
from bench.model.lora_kernel import KernelLinear
from bench.model.lora_r import LoraRLinear
from bench.process.validation import one_line
from bench.systems.base import System
from bench.systems.none import NO_SYSTEM

ADAPTER = "default"  # PEFT's name for the first adapter
MAGNITUDE = "lora_magnitude_vector"  # DoRA's, one number a row of W
PLAIN_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class AdaptedLayer:
    """One target layer of the model in training: a plain nn.Linear, or PEFT's layer around it.

    Attributes:
        name: path of the layer in the pretrained model.
        module: the module to hook: its input and output are the layer's.
        scaling: s; 1 without an adapter.
        trains: names of its tensors that the optimiser moves; none if the method gave the layer rank 0.
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
        """lora_A, lora_B, and lora_R, lora_E, lora_o and DoRA's magnitude if it has them; empty without an adapter."""
        if not isinstance(self.module, LoraLayer):
            return {}
        parts = {part: getattr(self.module, part, {}) for part in (*FACTORS, MAGNITUDE)}
        return {part: adapters[ADAPTER].weight for part, adapters in parts.items() if ADAPTER in adapters}

    def factors(self) -> Factors | None:
        """A float32 copy of the current factors; None without an adapter."""
        parameters = {name: value for name, value in self.parameters().items() if name in FACTORS}
        return Factors(**{k: v.detach().float().clone() for k, v in parameters.items()}) if parameters else None

    def magnitude(self) -> Float[Tensor, "out"] | None:
        """DoRA's current magnitudes, float32; None without DoRA."""
        parameter = self.parameters().get(MAGNITUDE)
        return None if parameter is None else parameter.detach().float()

    def direction(self) -> Float[Tensor, "out in"]:
        """Base weight plus s B A (s B R A, s B diag(E) A), float32: DoRA's V; without DoRA the effective weight."""
        factors, base = self.factors(), float_weight(self.module)
        return base if factors is None else base + self.scaling * factors.product()

    def effective_weight(self) -> Float[Tensor, "out in"]:
        """The matrix by which the layer multiplies its input, float32."""
        V, magnitude = self.direction(), self.magnitude()
        return V if magnitude is None else (magnitude / V.norm(dim=1))[:, None] * V


def float_weight(module: nn.Module) -> Float[Tensor, "out in"]:
    """The base weight of a linear layer in float32, dequantised if it is quantised."""
    base = module.get_base_layer() if isinstance(module, LoraLayer) else module
    weight = cast(Tensor, base.weight)
    plain = weight if weight.dtype in PLAIN_DTYPES else cast(Tensor, dequantize_module_weight(base))
    return plain.detach().float()


def count_parameters(model: nn.Module, *, trainable: bool = False) -> tuple[int, int]:
    """Numbers of parameters of a model without its head, and of the head; with `trainable`, of the trained ones."""

    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad or not trainable)

    head = sum(map(count, heads(model).values()))
    return count(model) - head, head


def check_layers(skeleton: PreTrainedModel, layers: Collection[str]) -> None:
    """Refuses layers to which PEFT would add no adapter: it keeps some names for a mixture's experts.

    Args:
        skeleton: the model on the meta device; PEFT changes it.
        layers: names of the target layers.

    Raises:
        ValueError: PEFT refuses a layer, or would leave one without an adapter.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            wrapped = get_peft_model(skeleton, LoraConfig(r=1, target_modules=list(layers)), low_cpu_mem_usage=True)
    except ValueError as error:
        raise ValueError(
            f"PEFT does not adapt all of these layers: {one_line(error)} Name the others in model.target_modules"
        ) from error
    adapted = _with_adapter(wrapped)
    if left := [name for name in layers if name not in adapted]:
        others = sorted({name.rpartition(".")[2] for name in layers} - {name.rpartition(".")[2] for name in left})
        raise ValueError(
            f"PEFT takes the names of {len(left)} linear layers ({left[0]}, ...) for those of a mixture's experts and "
            f"leaves them without adapters; set model.target_modules=[{','.join(others)}]"
        )


def _with_adapter(wrapped: nn.Module) -> set[str]:
    plain = cast(nn.Module, wrapped.base_model.model)  # type: ignore[union-attr]
    return {name for name, module in plain.named_modules() if isinstance(module, LoraLayer)}


def add(
    model: PreTrainedModel,
    method: Method,
    rank: Rank,
    layers: dict[str, nn.Linear],
    options: AdapterOptions = PLAIN,
    ranks: dict[str, int] | None = None,
    system: System = NO_SYSTEM,
) -> tuple[PreTrainedModel, list[AdaptedLayer]]:
    """Adds the method's adapters and freezes everything else but a head; every trainable tensor becomes float32.

    Args:
        model: the pretrained model, changed in place.
        method: says which tensors train, and the rule for s.
        rank: the budget of each layer, as given; a system may have a rank of its own instead.
        layers: the target layers by name, as target_layers returns them.
        options: DoRA and LoRA+.
        ranks: rank of each layer; a layer of rank 0 gets no adapter. None: that of `rank` each.
        system: says which of the tensors train, and whether adapters have lora_E.

    Returns:
        The model to train and its target layers; the factors are zero until `fill` is called.
    """
    if not method.has_adapter:
        train_all = "weight" in method.trains
        model.requires_grad_(train_all and not system.only_targets)
        model = model.float() if train_all else model
        for module in layers.values() if train_all else ():
            module.weight.requires_grad_(True)
        _free_heads(model, method)
        return model, [AdaptedLayer(name, module, 1.0, method.trains, False) for name, module in layers.items()]
    rank = system.rank(rank)
    scaling, ranks = scaling_value(method.scaling, rank), ranks or dict.fromkeys(layers, rank.r)
    with torch.random.fork_rng():  # PEFT draws values that `fill` replaces
        wrapped = get_peft_model(model, _peft_config(method, options, scaling, rank.r, ranks, system))
    assert _with_adapter(wrapped) == {name for name, own in ranks.items() if own}, "PEFT adapts other layers"
    modules = dict(cast(nn.Module, wrapped.base_model.model).named_modules())
    trains = system.trains(method) | ({MAGNITUDE} if options.use_dora else set())
    adapted = [
        AdaptedLayer(name, modules[name], scaling, trains, method.keeps_function, options.loraplus_lr_ratio or 1.0)
        if ranks[name]
        else AdaptedLayer(name, modules[name], 1.0, frozenset(), False)
        for name in layers
    ]
    for layer in adapted:
        if isinstance(layer.module, KernelLinear):
            layer.module.system = system
        for part, parameter in layer.parameters().items():
            parameter.data = torch.zeros_like(parameter, dtype=torch.float32)
            parameter.requires_grad_(part in layer.trains)
    _free_heads(wrapped, method)
    return cast(PreTrainedModel, wrapped), adapted  # a PeftModel passes on what it does not have itself


def _free_heads(model: nn.Module, method: Method) -> None:
    """Makes the head trainable, which is new, unless the method trains nothing."""
    for head in heads(model).values():
        head.requires_grad_(bool(method.trains))


def _peft_config(
    method: Method, options: AdapterOptions, scaling: float, r: int, ranks: dict[str, int], system: System
) -> LoraConfig:
    """PEFT's configuration, with lora_alpha such that PEFT's α/r is the method's s in every layer."""
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
    elif "lora_o" in method.trains:
        config._register_custom_module({nn.Linear: LoraEOLinear})
    elif system.gated or "lora_E" in method.trains:
        config._register_custom_module({nn.Linear: LoraELinear})
    elif system.has_kernel:
        config._register_custom_module({nn.Linear: KernelLinear})
    return config


def write(layer: AdaptedLayer, factors: Factors) -> None:
    """Writes the factors that are given."""
    for part, parameter in layer.parameters().items():
        if (value := getattr(factors, part, None)) is not None:
            parameter.data.copy_(value)


@torch.no_grad()
def fill(layer: AdaptedLayer, factors: Factors) -> None:
    """Writes the factors and, if the base is shifted, subtracts s B A from the base weight.

    DoRA's magnitudes are set to the row norms of the effective weight.

    Raises:
        ValueError: the base weight is to be shifted, but is quantised.
    """
    write(layer, factors)
    shift(layer, factors)
    if MAGNITUDE in (parameters := layer.parameters()):
        parameters[MAGNITUDE].copy_(layer.direction().norm(dim=1))


@torch.no_grad()
def shift(layer: AdaptedLayer, factors: Factors, pretrained: Float[Tensor, "out in"] | None = None) -> None:
    """Sets the base weight of a layer that is shifted to W - s B A, unless the product vanishes.

    It is computed in float32 from the factors in their stored precision, and rounded once.

    Args:
        layer: the layer.
        factors: B and A.
        pretrained: W; None: the current base weight.

    Raises:
        ValueError: the base weight is quantised.
    """
    stored = factors.to(layer.weight.device)
    if not layer.shifted or stored.vanishes(product := stored.product()):
        return
    if layer.weight.dtype not in PLAIN_DTYPES:
        raise ValueError(
            f"{layer.name} is quantised ({layer.weight.dtype}), and this method takes its factors' product out of "
            "the weight; load the model in float32 or bfloat16, or take a method that leaves W as it is, such as hu"
        )
    weight = layer.weight if pretrained is None else pretrained
    layer.weight.copy_(torch.sub(weight.float(), product, alpha=layer.scaling))
