"""A padded batch divided into pieces of rows of about one length, so that hardly a padding token is computed.

The pieces of a batch hold its rows once each; losses and gradients are summed over them. A further pass costs as much
as some tokens (weights are read again, operations started), so that few rows, or a tiny model, stay together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.model.loss import IGNORED, Batch

# What a pass costs beside its tokens, in tokens: a part for any model, and one in proportion to 1 / parameters a block.
# Measured on one core with 0.18 and 3.5 million parameters a block, forward and backward; under bfloat16 autocast the
# frozen weights are rounded in every pass. On a GPU, where starting operations dominates, it is an estimate.
PASS_TOKENS = {"cpu": (24.0, 1.25e7), "cpu bf16": (60.0, 1.7e7), "cuda": (24.0, 3e10), "cuda bf16": (60.0, 3e10)}
MOST_TOKENS = {"cpu": 512, "cuda": 16384}  # of a piece of several rows: more are not faster, and take memory


class Cutter:
    """Divides batches into pieces, for one model on its device.

    Attributes:
        pass_tokens: what a pass costs, in tokens.
        most_tokens: padded tokens of a piece, unless one row has more.

    Args:
        model: tells the device and the parameters a block.
        precision: fp32, or bf16 for autocast.
    """

    def __init__(self, model: Any, precision: str = "fp32") -> None:
        device = "cpu" if model.device.type == "cpu" else "cuda"
        fixed, by_block = PASS_TOKENS[device if precision == "fp32" else f"{device} bf16"]
        config = model.config.get_text_config()
        blocks = getattr(config, "num_hidden_layers", None) or 1
        in_blocks = sum(p.numel() for p in _in_blocks(model))
        self.pass_tokens = fixed + by_block * blocks / max(in_blocks, 1)
        self.most_tokens = MOST_TOKENS[device]

    def pieces(self, batch: Batch, fewest: int = 1, most_rows: int | None = None) -> list[dict[str, Tensor]]:
        """The pieces of a batch, each cut to its longest row; rows of one length keep their order.

        Args:
            batch: padded on the right: attention_mask (batch, tokens), and tensors with a row for each of its rows.
            fewest: number of pieces at least, as far as there are rows.
            most_rows: of a piece; None: as many as `most_tokens` holds.
        """
        sides = _lengths(batch)
        together = sides.sum(dim=0).tolist()
        order = sorted(range(len(together)), key=together.__getitem__)
        bounds = partition([together[row] for row in order], self.pass_tokens, self.most_tokens, most_rows)
        while len(bounds) < min(fewest, len(order)):
            start, stop = max(bounds, key=lambda bound: bound[1] - bound[0])
            at, middle = bounds.index((start, stop)), (start + stop) // 2
            bounds[at : at + 1] = [(start, middle), (middle, stop)]
        return [cut(batch, order[start:stop], sides) for start, stop in bounds]


def partition(
    lengths: Sequence[int], pass_tokens: float, most_tokens: int, most_rows: int | None = None
) -> list[tuple[int, int]]:
    """Bounds (start, stop) of the consecutive pieces of rows that cost least: padded tokens, and a pass each.

    Args:
        lengths: tokens of each row, ascending.
        pass_tokens: what a pass costs, in tokens.
        most_tokens: padded tokens of a piece of several rows.
        most_rows: rows of a piece.
    """
    most_rows = most_rows or len(lengths)
    best: list[tuple[float, int]] = [(0.0, 0)]  # of the first rows: least cost, and where their last piece starts
    for stop in range(1, len(lengths) + 1):
        found = (math.inf, stop - 1)
        for start in range(stop - 1, max(stop - 1 - most_rows, -1), -1):
            tokens = (stop - start) * lengths[stop - 1]
            if tokens > most_tokens and start < stop - 1:
                break
            found = min(found, (best[start][0] + tokens + pass_tokens, start))
        best.append(found)
    bounds: list[tuple[int, int]] = []
    stop = len(lengths)
    while stop:
        start = best[stop][1]
        bounds.insert(0, (start, stop))
        stop = start
    return bounds


def cut(batch: Batch, rows: Sequence[int], lengths: Tensor | None = None) -> dict[str, Tensor]:
    """Some rows of a batch without the padding that none of them needs.

    Args:
        batch: padded on the right.
        rows: their indices.
        lengths: as `_lengths` counts them.
    """
    sides = _lengths(batch) if lengths is None else lengths
    chosen = torch.tensor(rows, device=batch["attention_mask"].device)
    source, target = (int(side[chosen].max()) for side in sides)
    taken = {name: tensor[chosen] for name, tensor in batch.items()}
    return {
        name: tensor if tensor.dim() == 1 else tensor[:, : target if name == "labels" and target else source]
        for name, tensor in taken.items()
    }


def num_padding(batch: Batch) -> int:
    """Number of tokens that are computed and are padding: of input_ids, and of an encoder-decoder's labels."""
    source, target = _lengths(batch)
    width = batch["labels"].shape[1] if target.any() else 0
    return int(batch["attention_mask"].numel() - source.sum() + width * len(target) - target.sum())


def _lengths(batch: Batch) -> Tensor:
    """Tokens of each row's two sides (2, batch): of input_ids; and of labels where a decoder reads them, else 0."""
    mask, labels = batch["attention_mask"], batch["labels"]
    source = mask.sum(dim=1)
    apart = labels.dim() == 2 and bool((labels[:, 0] != IGNORED).all())
    return torch.stack([source, (labels != IGNORED).sum(dim=1) if apart else torch.zeros_like(source)])


def _in_blocks(model: Any) -> list[nn.Parameter]:
    """The parameters outside embeddings and heads."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    embeddings |= {id(p) for p in output.parameters()} if output is not None else set()
    return [p for p in model.parameters() if id(p) not in embeddings]
