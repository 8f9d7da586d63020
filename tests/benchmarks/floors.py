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
# Takes a layer's name, its input (batch, tokens, in) and the gradient of its output (batch, tokens, out).
Visit = Callable[[str, Tensor, Tensor], object]


def activations(model: PreTrainedModel, batches: Iterable[Batch]) -> dict[str, float]:
    """Forward and backward with every weight frozen and no gradient of a weight formed; seconds of each."""
    return _passes(model, batches, {}, lambda *_: None)


def gradient(model: PreTrainedModel, batches: Iterable[Batch]) -> dict[str, float]:
    """The same; the gradient of each target weight is formed as the backward pass reaches it, and freed at once."""
    return _passes(model, batches, target_layers(model), lambda _name, inputs, output: _product(inputs, output))


def mean_gradients(model: PreTrainedModel, batches: list[Batch]) -> dict[str, Tensor]:
    """The mean over the batches of every target weight's gradient (out, in)."""
    sums = {name: torch.zeros_like(layer.weight) for name, layer in target_layers(model).items()}
    visit: Visit = lambda name, inputs, output: sums[name].add_(_product(inputs, output))  # noqa: E731
    _passes(model, batches, target_layers(model), visit)
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

            def backward_hook(output_gradient: Tensor) -> None:
                visit(name, inputs, output_gradient)

            output.register_hook(backward_hook)

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
