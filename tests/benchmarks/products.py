"""The least that a cell computes, timed as plain matrix products of its shapes on the threads of this process.

Of the adapted layers the forward products and, in training, those that carry the gradient on to their inputs, over the
tokens that are no padding; one product with the vocabulary at the tokens whose logits count; no attention, no norm.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PretrainedConfig

REPETITIONS = 3


@dataclass(frozen=True)
class Floor:
    """Products in order, their multiplications and additions counted as two operations.

    Attributes:
        seconds: median over repetitions.
    """

    flops: float
    seconds: float


def floor(
    config: PretrainedConfig, tokens: Sequence[int], label_tokens: Sequence[int], training: bool, bf16: bool = False
) -> Floor:
    """The floor of several passes.

    Args:
        config: of the model, which has the shapes.
        tokens: computed tokens of each pass.
        label_tokens: of each pass those whose logits count.
        training: whether gradients are carried backwards as well.
        bf16: bfloat16 in place of float32.
    """
    layers, head = _shapes(config)
    dtype = torch.bfloat16 if bf16 else torch.float32
    both = 2 if training else 1
    shapes: Counter[tuple[int, int, int]] = Counter()  # rows, in, out
    for number, labels in zip(tokens, label_tokens, strict=True):
        for (size_in, size_out), times in layers.items():
            shapes[number, size_in, size_out] += times
            if training:
                shapes[number, size_out, size_in] += times
        shapes[labels, *head] += 1
    seconds = sum(times * _seconds(*shape, dtype) for shape, times in shapes.items())
    of_layers = sum(size_in * size_out * times for (size_in, size_out), times in layers.items())
    return Floor(2.0 * (both * of_layers * sum(tokens) + head[0] * head[1] * sum(label_tokens)), seconds)


def _shapes(config: PretrainedConfig) -> tuple[Counter[tuple[int, int]], tuple[int, int]]:
    """Of every adapted layer (in, out), with how often it occurs; and that of the head."""
    from transformers import AutoModelForCausalLM

    from shape import target_layers

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    layers = Counter((layer.in_features, layer.out_features) for layer in target_layers(model).values())
    head = model.get_output_embeddings()
    return layers, (head.in_features, head.out_features)


def _seconds(rows: int, size_in: int, size_out: int, dtype: torch.dtype) -> float:
    """Of one product (rows, in) x (in, out), after one that is not timed."""
    if not rows:
        return 0.0
    x, weight = (torch.randn(shape, dtype=dtype) for shape in ((rows, size_in), (size_out, size_in)))
    product(x, weight)
    return statistics.median(product(x, weight) for _ in range(REPETITIONS))


def product(x: Tensor, weight: Tensor) -> float:
    """Seconds of a layer's product, whose weight is (out, in)."""
    began = time.perf_counter()
    torch.nn.functional.linear(x, weight)
    return time.perf_counter() - began
