"""Passes through the model that give each layer's input and output gradient to a callback, layer by layer.

Models shape activations as they like: (batch, tokens, in), (batch * tokens, in) as OPT's feed-forward layers, the
target's tokens in a decoder, relative positions in DeBERTa, the tokens that a router has chosen in an expert. A sum
over rows needs not know; what tells samples or padding apart asks `rows_mask`.

Only activations are differentiated. The callback forms the gradient of a target weight from the two, in the layer's
backward hook; the gradient of another weight is never formed, and an input is freed once it is consumed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from bench.model.images import is_of_images
from bench.model.layers import evaluating
from bench.model.loss import IGNORED, mean_loss
from bench.process.phases import now

Batch = dict[str, Tensor]  # input_ids, attention_mask and labels, each (batch, tokens); or pixel_values and labels
Inputs = Float[Tensor, "*rows in"]
OutputGradient = Float[Tensor, "*rows out"]
Mask = Bool[Tensor, "batch tokens"]
Consumer = Callable[[str, Inputs, OutputGradient], None]


class Pass(NamedTuple):
    """One pass of one batch: its loss in nats a token, and seconds, those of the callbacks included."""

    loss: float
    forward_seconds: float
    backward_seconds: float


CROSS_ATTENTION = {"EncDecAttention", "encoder_attn", "cross_attn", "cross_attention", "crossattention"}
OF_ENCODER = {"k", "v", "k_proj", "v_proj", "key", "value"}  # in cross-attention


def weight_gradient(
    inputs: Inputs, output_gradient: OutputGradient, total: Float[Tensor, "out in"] | None = None
) -> Float[Tensor, "out in"]:
    """dL/dW of `y = W x`, float32: the sum over rows of (dL/dy) xᵀ; added to `total` in place where it is given."""
    left, right = output_gradient.flatten(0, -2).float().T, inputs.flatten(0, -2).float()
    return left @ right if total is None else total.addmm_(left, right)


def ignore(_name: str) -> None:
    """A callback that does nothing."""


class _Kept(torch.autograd.Function):
    """Saves a layer's input in the graph as autograd saves what it needs: with checkpointing it is computed again.

    Its node is not on the way from the loss; `saved_tensors` of the node is what the output's hook reads. So each call
    of a module has its own input, in whatever order gradients come.
    """

    @staticmethod
    def forward(ctx: Any, handle: Tensor, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        return handle.detach()

    @staticmethod
    def backward(ctx: Any, *_gradients: Any) -> tuple[None, None]:
        return None, None


class _Graph:
    """The graph of one pass: its roots, and the calls of each layer whose gradient is still to come."""

    def __init__(self, consume: Consumer, finish: Callable[[str], None], enter: Callable[[str], None]) -> None:
        self._consume, self._finish, self._enter = consume, finish, enter
        self._handle = torch.empty(0, requires_grad=True)
        self._calls: dict[str, int] = defaultdict(int)
        self._roots: list[Tensor] = []
        self._recomputing = False

    def root(self, _module: nn.Module, _args: tuple, output: Tensor) -> Tensor:
        """A forward hook: makes the output a root of the graph if nothing before it is one, as weights are frozen.

        The model goes on with a copy: it may write to an activation in place (Longformer's queries), which a root does
        not allow, and which would take the hook off a view.
        """
        if output.is_leaf and torch.is_grad_enabled():
            self._roots.append(output.requires_grad_())
        return output.clone()

    def watch(self, name: str, module: nn.Module, stack: ExitStack) -> None:
        """Hooks a layer until the stack is closed."""

        def before(_module: nn.Module, _args: tuple) -> None:
            self._enter(name)

        def after(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            if not torch.is_grad_enabled():  # the model's own no_grad: autograd, too, has no gradient of this call
                return output
            output = self.root(module, args, output)
            kept = [_Kept.apply(self._handle, args[0].detach()).grad_fn]
            if not self._recomputing:
                self._calls[name] += 1
                output.register_hook(partial(self._back, name, kept))
            return output

        stack.callback(module.register_forward_pre_hook(before).remove)
        stack.callback(module.register_forward_hook(after).remove)

    def _back(self, name: str, kept: list[Any], output_gradient: Tensor) -> None:
        self._enter(name)
        (inputs,) = kept.pop().saved_tensors
        self._consume(name, inputs, output_gradient)
        self._calls[name] -= 1
        if not self._calls[name]:
            self._finish(name)

    def differentiate(self, loss: Tensor) -> None:
        """The backward pass, in which the layers' gradients are consumed."""
        self._recomputing = True
        torch.autograd.grad(loss, self._roots, allow_unused=True)
        for name in [name for name, missing in self._calls.items() if missing]:
            self._finish(name)  # the loss does not depend on some of its outputs


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

    A layer that the model calls several times (shared layers, relative positions) is consumed call by call, and calls
    of other layers may lie between; one that is not called (an expert that no token is sent to) is not consumed at all.
    No parameter's gradient is formed or changed. Every module is left in the mode it was in. A loss that is not finite
    is not differentiated.

    Args:
        model: any parameter may be frozen.
        modules: the layers to visit, by name.
        batch: one batch, on the model's device; its loss is the model's own mean over label tokens.
        consume: called with name, input (..., in) and output gradient (..., out), shaped as the model shapes them:
            `rows_mask` knows which tokens the rows are.
        weight: factor by which the loss is multiplied before it is differentiated.
        checkpointing: keeps each block's input only, and computes the block again in the backward pass.
        finish: called once with the name of each layer that was called, when all its calls have been consumed.
        enter: called with a layer's name before it computes, and before its gradient is consumed.

    Returns:
        The unweighted loss, and the seconds.

    Raises:
        ValueError: checkpointing, of a model without blocks to checkpoint or with dropout.
    """
    graph = _Graph(consume, finish, enter)
    checkpointed = _checkpointed(model) if checkpointing else nullcontext()
    with evaluating(model), _frozen(model), checkpointed, ExitStack() as stack:
        for embedding in _embeddings(model):
            stack.callback(embedding.register_forward_hook(graph.root).remove)
        for name, module in modules.items():
            graph.watch(name, module, stack)
        began = now()
        loss = mean_loss(model, batch, whole=_looks_at_head(model, modules))
        turned = now()
        if loss.isfinite():
            graph.differentiate(loss if weight == 1.0 else loss * weight)
        return Pass(loss.item(), turned - began, now() - turned)


def _looks_at_head(model: PreTrainedModel, modules: Mapping[str, nn.Module]) -> bool:
    return model.get_output_embeddings() in modules.values()


def _embeddings(model: PreTrainedModel) -> list[nn.Module]:
    """The token embeddings: one module, or one each of an encoder and a decoder; or the convolution of patches."""
    embeddings = model.get_input_embeddings()
    if not isinstance(embeddings, nn.Embedding):
        return [module for module in embeddings.modules() if isinstance(module, nn.Conv2d)]
    shape = embeddings.weight.shape
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
    """One forward pass; `consume(name, input)` is called layer by layer, first layer first, at each call of a layer.

    Args:
        model: left in the mode it was in.
        modules: the layers to visit, by name.
        batch: one batch, on the model's device.
        consume: called with name and input (..., in).
        finish: called with the layer's name after `consume`; whether the layer is called again is not known.
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
        loss = mean_loss(model, batch, whole=_looks_at_head(model, modules)).item()
        return Pass(loss, now() - began, 0.0)


def token_masks(model: PreTrainedModel, batch: Batch) -> tuple[Mask, Mask | None]:
    """Masks of the tokens that are no padding: of input_ids, and of an encoder-decoder's labels."""
    target = batch["labels"] != IGNORED if model.config.is_encoder_decoder else None
    return batch["attention_mask"].bool(), target


def rows_mask(model: PreTrainedModel, name: str, rows: torch.Size, batch: Batch) -> Mask | None:
    """As `token_mask`, of a batch; of images every row counts, as many of each (windows of Swin one after another).

    Args:
        model: of which the layer is one.
        name: the layer's path in the model.
        rows: shape of the layer's input without its last dimension.
        batch: what the model is given.
    """
    if not is_of_images(batch):
        return token_mask(name, rows, *token_masks(model, batch))
    each, rest = divmod(rows.numel(), len(batch["labels"]))
    return None if rest else torch.ones(len(batch["labels"]), each, dtype=torch.bool, device=model.device)


def token_mask(name: str, rows: torch.Size, source: Mask, target: Mask | None = None) -> Mask | None:
    """The mask of the tokens that the rows are, in its order; None if they are not the tokens of the batch.

    Args:
        name: the layer's path in the model.
        rows: shape of the layer's input without its last dimension: that of the mask, or flattened.
        source: tokens of input_ids that are no padding.
        target: of an encoder-decoder: tokens of the labels that are no padding.
    """
    if is_routed(name):
        return None
    masks = [mask for mask in (source, target) if mask is not None and rows in (mask.shape, (mask.numel(),))]
    if len(masks) == 2:
        return source if _reads_source(name) else target
    return masks[0] if masks else None


def is_routed(name: str) -> bool:
    """Whether a layer belongs to an expert, which sees some tokens only, in the router's order."""
    return "experts" in name.split(".")


def _reads_source(name: str) -> bool:
    """Whether an encoder-decoder's layer takes source tokens: in the encoder, and k and v of cross-attention."""
    parts = name.split(".")
    return "decoder" not in parts or (bool(CROSS_ATTENTION & set(parts)) and parts[-1] in OF_ENCODER)
