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

from bench.methods.base import Statistic
from bench.model import evaluating
from bench.tasks.examples import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Batch = dict[str, Tensor]  # input_ids, attention_mask and labels, each (batch, tokens)
Consumer = Callable[[str, Float[Tensor, "batch tokens in"], Float[Tensor, "batch tokens out"]], None]


@dataclass(frozen=True)
class Calibration:
    """What a method asked for, per target layer, as bench.methods.base.Layer describes it; float32."""

    gradient: dict[str, Float[Tensor, "out in"]] = field(default_factory=dict)
    input_covariance: dict[str, Float[Tensor, "in in"]] = field(default_factory=dict)
    label_covariance: dict[str, Float[Tensor, "in in"]] = field(default_factory=dict)
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


@torch.no_grad()
def visit_inputs(
    model: PreTrainedModel, modules: Mapping[str, nn.Module], batch: Batch, consume: Callable[[str, Tensor], None]
) -> float:
    """One forward pass; `consume(name, input)` is called layer by layer, first first. Returns the batch's loss."""

    def watch(name: str) -> Callable:
        return lambda _module, args, _output: consume(name, args[0])

    with evaluating(model), ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(watch(name)).remove)
        return model(**batch).loss.item()


def calibrate(
    model: PreTrainedModel,
    layers: Mapping[str, nn.Module],
    batches: Iterable[Batch],
    requires: frozenset[Statistic],
) -> Calibration:
    """The statistics that a method requires, of the pretrained model, dropout off.

    Args:
        layers: target layers by name.
        batches: calibration batches; the mean of the gradient weighs each equally.
        requires: the statistics; with none, nothing is computed; without the gradient, there is no backward pass.

    Raises:
        ValueError: the loss is not finite, or there are no batches.
    """
    if not requires:
        return Calibration()
    sums: dict[str, dict[str, Tensor]] = {"gradient": {}, "input_covariance": {}, "label_covariance": {}}
    losses, num_samples = [], 0

    def consume(name: str, inputs: Tensor, output_gradient: Tensor | None = None) -> None:
        for kind in requires:
            share = _share(kind, batch, inputs, output_gradient)
            sums[kind][name] = sums[kind][name].add_(share) if name in sums[kind] else share

    for batch in batches:
        num_samples += len(batch["input_ids"])
        visit = visit_gradients if "gradient" in requires else visit_inputs
        losses.append(visit(model, layers, batch, consume))
    if not losses:
        raise ValueError("calibration needs at least one batch: task.calibration_samples must be positive")
    mean_loss = sum(losses) / len(losses)
    if not torch.isfinite(torch.tensor(mean_loss)):
        raise ValueError(f"the pretrained model's loss on the calibration samples is {mean_loss}")
    return Calibration(
        gradient={name: total / len(losses) for name, total in sums["gradient"].items()},
        input_covariance={name: total / num_samples for name, total in sums["input_covariance"].items()},
        label_covariance={name: _covariance(total) for name, total in sums["label_covariance"].items()},
        loss=mean_loss,
        num_samples=num_samples,
    )


def _share(kind: Statistic, batch: Batch, inputs: Tensor, output_gradient: Tensor | None) -> Tensor:
    """What one batch adds at one layer to the sum that a statistic is made of."""
    if kind == "gradient":
        assert output_gradient is not None, "the gradient needs a backward pass"
        return weight_gradient(inputs, output_gradient)
    seen = batch["attention_mask"].bool()
    if kind == "input_covariance":
        sequences = [sequence[tokens].float() for sequence, tokens in zip(inputs, seen, strict=True)]
        scaled = torch.cat([sequence / sequence.max().abs() for sequence in sequences])
        return scaled.T @ scaled
    learned = inputs[seen & (batch["labels"] != IGNORED)].double()
    with_one = torch.cat([learned, torch.ones_like(learned[:, :1])], dim=1)  # sums, squares and count in one matrix
    return with_one.T @ with_one


def _covariance(moments: Float[Tensor, "in+1 in+1"]) -> Float[Tensor, "in in"]:
    """The covariance of vectors, from the sum of [x, 1] [x, 1]ᵀ over them."""
    mean = moments[:-1, -1] / moments[-1, -1]
    return (moments[:-1, :-1] / moments[-1, -1] - torch.outer(mean, mean)).float()
