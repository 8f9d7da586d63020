"""The losses of a batch that several processes share, or several backward passes: those of the whole batch in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bench.model import adapter
from bench.process import ranks
from bench.tasks.examples import Example, num_label_tokens

Inputs = dict[str, Tensor]


def normalises(model: nn.Module) -> bool:
    """Whether the model's loss heeds num_items_in_batch: a causal one's does, the others' are means of their own rows.

    transformers 5.23 takes every model whose forward has **kwargs for one that does, and so multiplies the loss of an
    encoder or a sequence-to-sequence model with the number of backward passes and processes.
    """
    return not model.config.is_encoder_decoder and not adapter.heads(model)  # type: ignore[union-attr]


def share_of_mean(mean: Tensor, labels: Tensor, num_items: Tensor | int | None) -> Tensor:
    """What a part of a batch adds to the batch's mean loss, times the processes, over which gradients are averaged.

    Args:
        mean: of the part.
        labels: of the part, as `num_label_tokens` counts them.
        num_items: learned in the whole batch; None: the part is all of it.
    """
    if num_items is None:
        return mean
    return mean * (num_label_tokens(labels).sum() / num_items * ranks.size())


@torch.no_grad()
def eval_loss(
    examples: Sequence[Example], batch_size: int, loss: Callable[[Sequence[Example]], tuple[Tensor, Tensor]]
) -> float:
    """As one process takes it: the mean over examples of their batch's loss; the processes share each batch.

    Args:
        loss: of some examples, and how many tokens or rows it is the mean of; every process calls it equally often.
    """
    starts = range(0, len(examples), batch_size)
    sums = torch.zeros(len(starts), 2, dtype=torch.float64)
    for index, start in enumerate(starts):
        batch = examples[start : start + batch_size]
        mine = ranks.shard(batch)
        mean, counted = loss(mine or batch[:1])  # where there are fewer examples than processes, one is not counted
        if mine and counted:
            sums[index] = torch.tensor([mean.item() * counted.item(), counted.item()])
    means = ranks.all_reduce_sum(sums).unbind(dim=1)
    sizes = torch.tensor([len(examples[start : start + batch_size]) for start in starts])
    return ((means[0] / means[1] * sizes).sum() / len(examples)).item()
