"""Passes through the model that give each layer's input and output gradient to a callback, layer by layer.

Only activations are differentiated. The callback forms the gradient of a target weight from the two, in the layer's
backward hook; the gradient of another weight is never formed, and an input is freed once it is consumed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from bench.model.load import evaluating
from bench.process.phases import now

Batch = dict[str, Tensor]  # input_ids, attention_mask and labels, each (batch, tokens)
Inputs = Float[Tensor, "batch tokens in"]
OutputGradient = Float[Tensor, "batch tokens out"]
Consumer = Callable[[str, Inputs, OutputGradient], None]


class Pass(NamedTuple):
    """One pass of one batch: its loss in nats a token, and seconds, those of the callbacks included."""

    loss: float
    forward_seconds: float
    backward_seconds: float


def weight_gradient(
    inputs: Inputs, output_gradient: OutputGradient, total: Float[Tensor, "out in"] | None = None
) -> Float[Tensor, "out in"]:
    """dL/dW of `y = W x`, float32: the sum over tokens of (dL/dy) xᵀ; added to `total` in place where it is given."""
    left, right = output_gradient.flatten(0, -2).float().T, inputs.flatten(0, -2).float()
    return left @ right if total is None else total.addmm_(left, right)


def ignore(_name: str) -> None:
    """A callback that does nothing."""


class _Pairs:
    """Pairs each layer's input with its output gradient, in whichever order they come.

    Without checkpointing the input of the forward pass waits for the gradient. With it that input is not kept: the
    gradient may come before the block is computed again, and waits for the input.
    """

    def __init__(self, consume: Consumer, finish: Callable[[str], None], checkpointing: bool) -> None:
        self._consume, self._finish = consume, finish
        self._keeps_inputs = not checkpointing
        self._inputs: dict[str, list[Tensor]] = defaultdict(list)  # a module used twice comes back in reverse order
        self._gradients: dict[str, list[Tensor]] = defaultdict(list)
        self._calls: dict[str, int] = defaultdict(int)
        self.backward = False

    def input(self, name: str, inputs: Tensor) -> None:
        self._calls[name] += not self.backward
        if self._gradients[name]:
            self._pair(name, inputs, self._gradients[name].pop())
        elif self._keeps_inputs or self.backward:
            self._inputs[name].append(inputs)

    def gradient(self, name: str, gradient: Tensor) -> None:
        if self._inputs[name]:
            self._pair(name, self._inputs[name].pop(), gradient)
        else:
            self._gradients[name].append(gradient)

    def _pair(self, name: str, inputs: Tensor, gradient: Tensor) -> None:
        self._consume(name, inputs, gradient)
        self._calls[name] -= 1
        if not self._calls[name]:
            self._finish(name)


def visit_gradients(
    model: PreTrainedModel,
    modules: Mapping[str, nn.Module],
    batch: Batch,
    consume: Consumer,
    *,
    weight: float = 1.0,
    checkpointing: bool = False,
    finish: Callable[[str], None] = ignore,
    enter: Callable[[str], None] = ignore,
) -> Pass:
    """One forward and backward pass; `consume(name, input, output gradient)` is called layer by layer, last first.

    No parameter's gradient is formed or changed. Every module is left in the mode it was in. A loss that is not finite
    is not differentiated.

    Args:
        model: any parameter may be frozen.
        modules: the layers to visit, by name.
        batch: one batch, on the model's device; its loss is the model's own mean over label tokens.
        consume: called with name, input (batch, tokens, in) and output gradient (batch, tokens, out).
        weight: factor by which the loss is multiplied before it is differentiated.
        checkpointing: keeps each block's input only, and computes the block again in the backward pass.
        finish: called with a layer's name when all its calls have been consumed.
        enter: called with a layer's name before it computes, and before its gradient is consumed.

    Returns:
        The unweighted loss, and the seconds.

    Raises:
        ValueError: checkpointing, of a model without blocks to checkpoint or with dropout.
    """
    embedded: list[Tensor] = []
    pairs = _Pairs(consume, finish, checkpointing)

    def start_here(_module: nn.Module, _args: tuple, output: Tensor) -> Tensor:
        """Makes an embedding's output a root of the graph, also where every weight is frozen."""
        embedded.append(output if output.requires_grad else output.requires_grad_())
        return embedded[-1]

    def watch(name: str, stack: ExitStack, module: nn.Module) -> None:
        def before(_module: nn.Module, args: tuple) -> None:
            enter(name)
            pairs.input(name, args[0].detach())

        def after(_module: nn.Module, _args: tuple, output: Tensor) -> None:
            if not pairs.backward:
                output.register_hook(back)

        def back(gradient: Tensor) -> None:
            enter(name)
            pairs.gradient(name, gradient)

        stack.callback(module.register_forward_pre_hook(before).remove)
        stack.callback(module.register_forward_hook(after).remove)

    checkpointed = _checkpointed(model) if checkpointing else nullcontext()
    with evaluating(model), _frozen(model), checkpointed, ExitStack() as stack:
        for embedding in _token_embeddings(model):
            stack.callback(embedding.register_forward_hook(start_here).remove)
        for name, module in modules.items():
            watch(name, stack, module)
        began = now()
        loss = model(**batch).loss
        turned, pairs.backward = now(), True
        if loss.isfinite():
            torch.autograd.grad(loss if weight == 1.0 else loss * weight, embedded)
        return Pass(loss.item(), turned - began, now() - turned)


def _token_embeddings(model: PreTrainedModel) -> list[nn.Module]:
    """The token embeddings: one module, or one each of an encoder and a decoder."""
    shape = model.get_input_embeddings().weight.shape
    return [m for m in model.modules() if isinstance(m, nn.Embedding) and m.weight.shape == shape]


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Freezes every weight inside, so that the graph keeps no activation that only a weight's gradient needs."""
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in free:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in free:
            parameter.requires_grad_(True)


@contextmanager
def _checkpointed(model: PreTrainedModel) -> Iterator[None]:
    """transformers' activation checkpointing of the model's blocks, also in evaluation mode."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not blocks:
        raise ValueError(
            f"{type(model).__name__} has no blocks to checkpoint; set task.calibration_checkpointing=false"
        )
    rates = model.config.to_dict().items()
    if any(isinstance(rate, float) and rate > 0 for name, rate in rates if "dropout" in name or "pdrop" in name):
        raise ValueError("checkpointing needs a model without dropout; set task.calibration_checkpointing=false")
    use_cache = getattr(model.config, "use_cache", None)
    model.config.use_cache = False  # of keys and values, which the library would refuse with a warning
    model.activation_checkpointing_enable()
    for block in blocks:
        block.training = True  # what the library looks at; the layers inside stay as they are
    try:
        yield
    finally:
        model.activation_checkpointing_disable()
        model.config.use_cache = use_cache


@torch.no_grad()
def visit_inputs(
    model: PreTrainedModel,
    modules: Mapping[str, nn.Module],
    batch: Batch,
    consume: Callable[[str, Inputs], None],
    *,
    finish: Callable[[str], None] = ignore,
    enter: Callable[[str], None] = ignore,
) -> Pass:
    """One forward pass; `consume(name, input)` is called layer by layer, first layer first.

    Args:
        model: left in the mode it was in.
        modules: the layers to visit, by name.
        batch: one batch, on the model's device.
        consume: called with name and input (batch, tokens, in).
        finish: called with the layer's name after `consume`.
        enter: called with the layer's name before it.
    """

    def watch(name: str) -> Callable:
        def before(_module: nn.Module, args: tuple) -> None:
            enter(name)
            consume(name, args[0])
            finish(name)

        return before

    with evaluating(model), ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_pre_hook(watch(name)).remove)
        began = now()
        loss = model(**batch).loss.item()
        return Pass(loss, now() - began, 0.0)
