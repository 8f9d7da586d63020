"""Losses of a batch that is divided among ranks or backward passes, equal to those of the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bench.model.layers import heads
from bench.model.loss import num_label_tokens
from bench.process import ranks
from bench.tasks.examples import Example

Inputs = dict[str, Tensor]


def normalises(model: nn.Module) -> bool:
    """Whether the model divides its loss by num_items_in_batch; only a causal language model does.

    transformers 5.23 takes every model whose forward has **kwargs for one that does, and so multiplies the loss of an
    encoder or a sequence-to-sequence model with the number of backward passes and processes.
    """
    return not model.config.is_encoder_decoder and not heads(model)  # type: ignore[union-attr]


def share_of_mean(mean: Tensor, labels: Tensor, num_items: Tensor | int | None) -> Tensor:
    """The contribution of part of a batch to its mean loss, times the number of ranks, which average gradients.

    Args:
        mean: mean loss of the part.
        labels: labels of the part, as `num_label_tokens` counts them.
        num_items: label tokens of the whole batch; None: the part is the whole batch.
    """
    if num_items is None:
        return mean
    return mean * (num_label_tokens(labels).sum() / num_items * ranks.size())


@torch.no_grad()
def eval_loss(
    examples: Sequence[Example], batch_size: int, loss: Callable[[Sequence[Example]], tuple[Tensor, Tensor]]
) -> float:
    """The mean over the label tokens (of an encoder: rows) of all examples, however they are batched or sharded.

    Args:
        examples: the validation examples.
        batch_size: examples a batch, over all ranks.
        loss: mean loss of some examples, and the number of label tokens or rows; called equally often on every rank.
    """
    total = torch.zeros(2, dtype=torch.float64)
    for start in range(0, len(examples), batch_size):
        batch = examples[start : start + batch_size]
        mine = ranks.shard(batch)
        mean, counted = loss(mine or batch[:1])  # where there are fewer examples than processes, one is not counted
        if mine and counted:
            total += torch.tensor([mean.item() * counted.item(), counted.item()], dtype=torch.float64)
    summed, counted = ranks.all_reduce_sum(total)
    return (summed / counted).item()
