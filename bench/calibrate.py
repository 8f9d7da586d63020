"""What a method may know of the data: statistics of the pretrained model at its target layers, formed layer by layer.

Only activations are differentiated. The gradient of a target weight is formed in its layer's backward hook from the
layer's input and output gradient, handed on and freed; the gradient of an untargeted weight never exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bench.model import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Batch = dict[str, Tensor]  # input_ids, attention_mask and labels, each (batch, tokens)
Consumer = Callable[[str, Float[Tensor, "batch tokens in"], Float[Tensor, "batch tokens out"]], None]


@dataclass(frozen=True)
class Calibration:
    """Per target layer, in float32: the mean over batches of the loss gradient, and of x xᵀ over all tokens."""

    gradient: dict[str, Float[Tensor, "out in"]] = field(default_factory=dict)
    input_covariance: dict[str, Float[Tensor, "in in"]] = field(default_factory=dict)
    loss: float | None = None
    num_samples: int = 0


def weight_gradient(
    inputs: Float[Tensor, "batch tokens in"], output_gradient: Float[Tensor, "batch tokens out"]
) -> Float[Tensor, "out in"]:
    """dL/dW of `y = W x`, float32: the sum over tokens of (dL/dy) xᵀ."""
    return output_gradient.flatten(0, -2).float().T @ inputs.flatten(0, -2).float()


def visit_gradients(model: PreTrainedModel, modules: Mapping[str, nn.Module], batch: Batch, consume: Consumer) -> float:
    """One forward and backward pass; `consume(name, input, output gradient)` is called layer by layer, last first.

    No parameter's gradient is formed or changed. Every module is left in the mode it was in.

    Args:
        modules: the layers to visit, by name.
        batch: one batch; its loss is the model's own mean over label tokens.

    Returns:
        The batch's loss, nats a token.
    """
    embedded: list[Tensor] = []

    def start_here(_module: nn.Module, _args: tuple, output: Tensor) -> Tensor:
        """Makes the embedding's output the root of the graph, also where every weight is frozen."""
        embedded.append(output if output.requires_grad else output.requires_grad_())
        return embedded[-1]

    def watch(name: str) -> Callable:
        def forward_hook(_module: nn.Module, args: tuple, output: Tensor) -> None:
            inputs = args[0].detach()
            output.register_hook(lambda gradient: consume(name, inputs, gradient))

        return forward_hook

    with evaluating(model), ExitStack() as stack:
        handle = model.get_input_embeddings().register_forward_hook(start_here)
        stack.callback(handle.remove)
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(watch(name)).remove)
        loss = model(**batch).loss
        torch.autograd.grad(loss, embedded[0])
    return loss.item()


def calibrate(
    model: PreTrainedModel,
    layers: Mapping[str, nn.Module],
    batches: Iterable[Batch],
    requires: frozenset[str],
) -> Calibration:
    """The statistics that a method requires, of the pretrained model, dropout off.

    Args:
        layers: target layers by name.
        batches: calibration batches; the mean over batches weighs each equally.
        requires: "gradient" and/or "input_covariance"; with neither, nothing is computed.

    Raises:
        ValueError: the loss is not finite, or there are no batches.
    """
    if not requires:
        return Calibration()
    sums: dict[str, dict[str, Tensor]] = {"gradient": {}, "input_covariance": {}}
    num_tokens = 0

    def add_to(kind: str, name: str, value: Tensor) -> None:
        sums[kind][name] = sums[kind][name].add_(value) if name in sums[kind] else value

    def consume(name: str, inputs: Tensor, output_gradient: Tensor) -> None:
        if "gradient" in requires:
            add_to("gradient", name, weight_gradient(inputs, output_gradient))
        if "input_covariance" in requires:
            seen = inputs[mask].float()
            add_to("input_covariance", name, seen.T @ seen)

    losses, num_samples = [], 0
    for batch in batches:
        mask = batch["attention_mask"].bool()
        num_tokens += int(mask.sum())
        num_samples += len(mask)
        losses.append(visit_gradients(model, layers, batch, consume))
    if not losses:
        raise ValueError("calibration needs at least one batch: task.calibration_samples must be positive")
    mean_loss = sum(losses) / len(losses)
    if not torch.isfinite(torch.tensor(mean_loss)):
        raise ValueError(f"the pretrained model's loss on the calibration samples is {mean_loss}")
    return Calibration(
        gradient={name: total / len(losses) for name, total in sums["gradient"].items()},
        input_covariance={name: total / num_tokens for name, total in sums["input_covariance"].items()},
        loss=mean_loss,
        num_samples=num_samples,
    )
