"""The linear layers of a model that a method may adapt, and the heads beside them; knows no PEFT."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bench.methods.base import Layer, LearningRates, Method, Rank, scaling_value
from bench.systems.base import System
from bench.systems.none import NO_SYSTEM

if TYPE_CHECKING:
    from transformers import PreTrainedModel


POOLER = "pooler"  # transformers' name for the module between an encoder and its classifier
_DRAWN = "drawn_tensors"  # attribute of a model: names of the tensors that its checkpoint lacks


def is_classifier(model: Any) -> bool:
    """Whether the model ends in a classification head, of texts or of images."""
    return type(model).__name__.endswith(("ForSequenceClassification", "ForImageClassification"))


def mark_drawn(model: Any, tensors: Iterable[str]) -> None:
    """Says which tensors of a model its checkpoint lacks: a pooler among them is part of the head."""
    setattr(model, _DRAWN, tuple(tensors))


def heads(model: Any) -> dict[str, nn.Module]:
    """The classification head, which trains in every method: its modules by name.

    They are those beside the pretrained model, and a pooler that the checkpoint lacks; a language model has none.
    """
    plain: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # of PEFT
    if not is_classifier(plain):
        return {}
    beside = ((name, child) for name, child in plain.named_children() if name != plain.base_model_prefix)
    found = {name: child for name, child in beside if next(child.parameters(), None) is not None}
    drawn = (name.split(".") for name in getattr(plain, _DRAWN, ()))
    poolers = {".".join(path[: path.index(POOLER) + 1]) for path in drawn if POOLER in path}
    return found | {name: plain.get_submodule(name) for name in sorted(poolers)}


def target_layers(model: PreTrainedModel, target_modules: tuple[str, ...] | None) -> dict[str, nn.Linear]:
    """The linear layers whose name equals or ends in one of `target_modules`, in the model's order; never the head's.

    With None: every linear layer except output embeddings, head and the pooler before it.

    Raises:
        ValueError: a name matches no linear layer, none is left, or a layer shares its weight with another module.
    """
    head = tuple(f"{name}." for name in heads(model))
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not f"{name}.".startswith(head)
    }
    if target_modules is None:
        output = model.get_output_embeddings()
        found = {name: m for name, m in linear.items() if m is not output and POOLER not in name.split(".")}
        if not found:
            raise ValueError(
                f"{type(model).__name__} has no linear layer that can be adapted: {_described(model, _others(model))}; "
                "choose a model whose projections are nn.Linear"
            )
    else:
        unmatched = [end for end in target_modules if not any(_ends_in(name, end) for name in linear)]
        if unmatched:
            like = [name for name in _others(model) if any(end in name.split(".") for end in unmatched)]
            what = f" ({_described(model, like)})" if like else ""
            choices = sorted({name.rpartition(".")[2] for name in linear})
            raise ValueError(
                f"model.target_modules={unmatched} matches no linear layer{what}; this model has {choices}"
            )
        found = {name: m for name, m in linear.items() if any(_ends_in(name, end) for end in target_modules)}
    _check_ties(model, found)
    return found


def _ends_in(name: str, end: str) -> bool:
    return f".{name}".endswith(f".{end}")


def _others(model: nn.Module) -> dict[str, nn.Parameter]:
    """The matrices of a model, without its head, that are no weights of linear layers or embeddings, by name."""
    head = tuple(f"{name}." for name in heads(model))
    return {
        name: parameter
        for path, module in model.named_modules()
        if not isinstance(module, nn.Linear | nn.Embedding)
        for name, parameter in module.named_parameters(path, recurse=False)
        if parameter.ndim > 1 and not name.startswith(head)
    }


def _described(model: nn.Module, tensors: Iterable[str]) -> str:
    """The first tensor and the class that holds it."""
    first = next(iter(tensors), None)
    if first is None:
        return "all of its linear layers are heads"
    return f"{first} is of a {type(model.get_submodule(first.rpartition('.')[0])).__name__}"


def left_out(model: nn.Module) -> tuple[int, str]:
    """Parameters of the matrices that no adapter can reach, because they are of no linear layer; and the largest one.

    Such are the experts of a mixture, which are stacked in one tensor, and convolutions.
    """
    found = _others(model)
    largest = sorted(found, key=lambda name: -found[name].numel())
    return sum(parameter.numel() for parameter in found.values()), _described(model, largest) if found else ""


def _check_ties(model: nn.Module, layers: Mapping[str, nn.Linear]) -> None:
    names: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(path, recurse=False):
            names.setdefault(id(parameter), []).append(name)
    for name, layer in layers.items():
        shared = [other for other in names[id(layer.weight)] if other != f"{name}.weight"]
        if shared:
            raise ValueError(
                f"{name} shares its weight with {shared[0]} (tied embeddings), so that an adapter of the one would "
                f"change or miss the other; leave {name.rpartition('.')[2]} out of model.target_modules"
            )


@contextmanager
def calls_noted(layers: Mapping[str, nn.Linear]) -> Iterator[set[str]]:
    """Context manager: the names of the layers that are called inside."""
    called: set[str] = set()
    with ExitStack() as stack:
        for name, layer in layers.items():
            handle = layer.register_forward_pre_hook(lambda _layer, _args, name=name: called.add(name))
            stack.callback(handle.remove)
        yield called


def check_called(layers: Mapping[str, nn.Linear], called: set[str]) -> None:
    """Refuses layers that take no part in a pass under this name, in which an adapter would train nothing.

    An expert that no token was sent to is no such layer, as others of its name are called.

    Args:
        layers: the target layers by name.
        called: names of those that a pass of the model has called.

    Raises:
        ValueError: the model does not use a layer, or multiplies with its weight without calling it.
    """
    names, reached = (sorted({name.rpartition(".")[2] for name in found}) for found in (layers, called))
    if silent := [name for name in names if name not in reached]:
        raise ValueError(
            f"the model does not call {', '.join(silent)}, whose adapter would train nothing; "
            f"set model.target_modules={reached}".replace("'", "")
        )


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


def check_start(
    layers: Mapping[str, nn.Linear],
    method: Method,
    rank: Rank,
    learning_rates: LearningRates,
    system: System = NO_SYSTEM,
) -> None:
    """Refuses a rank that a target layer, the method or the system cannot have; reads no weights and no data.

    Args:
        layers: the target layers by name, on any device.
        method: asked about each layer by `Method.check`; one without an adapter takes any rank.
        rank: the budget of each layer.
        learning_rates: those of the coming schedule.
        system: asked about each layer by `System.check_layer`.

    Raises:
        ValueError: as `check_rank`, or what `Method.check` or `System.check_layer` says.
    """
    if not method.has_adapter:
        return
    rank = system.rank(rank)
    scaling = scaling_value(method.scaling, rank)
    shapes = {name: torch.empty(one.out_features, one.in_features, device="meta") for name, one in layers.items()}
    seen = [Layer(name, shape, rank.r, scaling, learning_rates=learning_rates) for name, shape in shapes.items()]
    for layer in seen:
        system.check_layer(layer)
    check_rank(layers, rank)
    for layer in seen:
        method.check(layer)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is in its earlier mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
