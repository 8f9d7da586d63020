"""The linear layers of a model that a method may adapt, and the heads beside them; knows no PEFT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bench.methods.base import Layer, LearningRates, Method, Rank, scaling_value

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def heads(model: Any) -> dict[str, nn.Module]:
    """The classification head of an encoder, which trains in every method: its modules by name.

    They are those beside the pretrained model; a language model has none.
    """
    plain: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # of PEFT
    if not type(plain).__name__.endswith("ForSequenceClassification"):
        return {}
    beside = ((name, child) for name, child in plain.named_children() if name != plain.base_model_prefix)
    return {name: child for name, child in beside if next(child.parameters(), None) is not None}


def target_layers(model: PreTrainedModel, target_modules: tuple[str, ...] | None) -> dict[str, nn.Linear]:
    """The linear layers whose name equals or ends in one of `target_modules`, in the model's order; never the head's.

    With None: every linear layer except output embeddings, head and the pooler before it.

    Raises:
        ValueError: nothing matches.
    """
    head = tuple(heads(model))
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.partition(".")[0] not in head
    }
    if target_modules is None:
        output = model.get_output_embeddings()
        return {name: m for name, m in linear.items() if m is not output and "pooler" not in name.split(".")}
    found = {name: m for name, m in linear.items() if any(f".{name}".endswith(f".{end}") for end in target_modules)}
    if not found:
        choices = sorted({name.rpartition(".")[2] for name in linear})
        raise ValueError(
            f"model.target_modules={list(target_modules)} matches no linear layer; this model has {choices}"
        )
    return found


def check_rank(layers: Mapping[str, nn.Linear], rank: Rank) -> None:
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


def check_start(layers: Mapping[str, nn.Linear], method: Method, rank: Rank, learning_rates: LearningRates) -> None:
    """Refuses a rank that a target layer or the method cannot have; reads no weights and no data.

    Args:
        layers: the target layers by name, on any device.
        method: asked about each layer by `Method.check`; one without an adapter takes any rank.
        rank: the budget of each layer.
        learning_rates: those of the coming schedule.

    Raises:
        ValueError: as `check_rank`, or what `Method.check` says.
    """
    if not method.has_adapter:
        return
    check_rank(layers, rank)
    scaling = scaling_value(method.scaling, rank)
    for name, layer in layers.items():
        shape = torch.empty(layer.out_features, layer.in_features, device="meta")
        method.check(Layer(name, shape, rank.r, scaling, learning_rates=learning_rates))
