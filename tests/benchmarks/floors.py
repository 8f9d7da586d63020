"""What calibration cannot do without: a forward and backward pass through activations a batch, written out plainly."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from shape import target_layers

Batch = dict[str, Tensor]
# A layer's name, its input (batch, tokens, in) and the gradient of its output (batch, tokens, out).
Visit = Callable[[str, Tensor, Tensor], None]


def activations(model: PreTrainedModel, batches: Iterable[Batch]) -> dict[str, float]:
    """Forward and backward with every weight frozen and no gradient of a weight formed; seconds of each."""
    return _passes(model, batches, {}, _ignore)


def gradient(model: PreTrainedModel, batches: Iterable[Batch]) -> dict[str, float]:
    """The same; the gradient of each target weight is formed as the backward pass reaches it, and freed at once."""
    return _passes(model, batches, target_layers(model), _form)


def mean_gradients(model: PreTrainedModel, batches: list[Batch]) -> dict[str, Tensor]:
    """The mean over the batches of every target weight's gradient (out, in)."""
    sums = {name: torch.zeros_like(layer.weight) for name, layer in target_layers(model).items()}

    def add(name: str, inputs: Tensor, output: Tensor) -> None:
        sums[name] += _product(inputs, output)

    _passes(model, batches, target_layers(model), add)
    return {name: total / len(batches) for name, total in sums.items()}


def _passes(
    model: PreTrainedModel, batches: Iterable[Batch], layers: dict[str, nn.Linear], visit: Visit
) -> dict[str, float]:
    model.requires_grad_(False).eval()
    embedded: list[Tensor] = []
    seconds = {"forward": 0.0, "backward": 0.0}

    def start_here(_module: nn.Module, _args: tuple, output: Tensor) -> None:
        embedded[:] = [output.requires_grad_()]

    def watch(name: str) -> Callable:
        def forward_hook(_module: nn.Module, args: tuple, output: Tensor) -> None:
            inputs = args[0].detach()
            output.register_hook(lambda output_gradient: visit(name, inputs, output_gradient))

        return forward_hook

    with ExitStack() as stack:
        stack.callback(model.get_input_embeddings().register_forward_hook(start_here).remove)
        for name, layer in layers.items():
            stack.callback(layer.register_forward_hook(watch(name)).remove)
        for batch in batches:
            began = time.perf_counter()
            loss = model(**batch).loss
            between = time.perf_counter()
            torch.autograd.grad(loss, embedded[0])
            seconds["forward"] += between - began
            seconds["backward"] += time.perf_counter() - between
    return seconds


def _product(inputs: Tensor, output_gradient: Tensor) -> Tensor:
    return output_gradient.flatten(0, -2).T @ inputs.flatten(0, -2)


def _form(_name: str, inputs: Tensor, output_gradient: Tensor) -> None:
    """Forms a weight's gradient and lets it go."""
    _product(inputs, output_gradient)


def _ignore(_name: str, _inputs: Tensor, _output_gradient: Tensor) -> None:
    """Forms nothing."""
