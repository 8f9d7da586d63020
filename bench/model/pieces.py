"""A padded batch rearranged into pieces that hold hardly any padding; its loss and gradients are sums over them.

A piece holds rows of about one length, or rows into which several examples are packed one behind the other, with
positions that start again: transformers' models read from these which tokens see each other. What is cheapest is
chosen by a model of cost in tokens, in which a further pass costs some, too.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.model.images import PIXELS, is_of_images, num_patches
from bench.model.loss import IGNORED, Batch
from bench.model.packing import understands_packing

Row = list[int]  # examples, one behind the other
Plan = list[list[Row]]  # of a batch: passes, each of rows

# What a pass costs beside its tokens, in tokens: a part for any model, and one in proportion to 1 / parameters a block.
# Measured on one core with 0.18 and 3.5 million parameters a block, forward and backward; under bfloat16 autocast the
# frozen weights are rounded in every pass. On a GPU, where starting operations dominates, it is an estimate.
PASS_TOKENS = {"cpu": (24.0, 1.25e7), "cpu bf16": (60.0, 1.7e7), "cuda": (24.0, 3e10), "cuda bf16": (60.0, 3e10)}
MOST_TOKENS = {"cpu": 384, "cuda": 16384}  # of a piece of several rows: more are not faster, and take memory
WORTHWHILE = 12  # a piece may have so many times the tokens that its pass costs: a tiny model's takes little memory
DEARER = 1000  # a token costs 1 + width / DEARER, as it is compared with the others of its row: measured on one core


class Cutter:
    """Rearranges batches for one model on its device.

    Attributes:
        pass_tokens: what a pass costs, in tokens.
        most_tokens: of a piece, padding included, unless one row has more.
        packs: whether rows may hold several examples.

    Args:
        model: tells the device and the parameters a block.
        precision: fp32, or bf16 for autocast.
        pack: False where a row has to be an example.
    """

    def __init__(self, model: Any, precision: str = "fp32", pack: bool = True) -> None:
        device = "cpu" if model.device.type == "cpu" else "cuda"
        fixed, by_block = PASS_TOKENS[device if precision == "fp32" else f"{device} bf16"]
        blocks = getattr(model.config.get_text_config(), "num_hidden_layers", None) or 1
        self._config = model.config
        self.pass_tokens = fixed + by_block * blocks / max(_parameters_in_blocks(model), 1)
        self.most_tokens = max(MOST_TOKENS[device], int(WORTHWHILE * self.pass_tokens))
        self.packs = pack and understands_packing(model)

    def pieces(self, batch: Batch, fewest: int = 1, most_rows: int | None = None) -> list[dict[str, Tensor]]:
        """The pieces of a batch, which hold each of its examples once.

        A piece has input_ids, attention_mask and labels (rows, tokens), padded on the right, and whatever else the
        batch has; where examples are packed also position_ids, which are then what the model is to be given in place
        of attention_mask.

        Args:
            batch: padded on the right: attention_mask (batch, tokens), and tensors with a row for each of its rows.
            fewest: number of pieces at least, as far as there are examples.
            most_rows: of a piece, each an example; None: as many as `most_tokens` holds.
        """
        sides = _lengths(batch, self._config)
        lengths = sides.sum(dim=0).tolist()
        plans = [sorted_rows(lengths, self.pass_tokens, self.most_tokens, most_rows)]
        if self.packs and most_rows is None:
            plans += packed_rows(lengths, self.most_tokens)
        plan = min(plans, key=lambda plan: cost(plan, lengths, self.pass_tokens))
        if len(plan) < fewest:
            plan = _divided(plans[0], fewest)
        return [_piece(batch, rows, sides) for rows in plan]


def cost(plan: Plan, lengths: Sequence[int], pass_tokens: float) -> float:
    """What the passes of a plan cost, in tokens."""
    total = 0.0
    for rows in plan:
        width = max(sum(lengths[i] for i in row) for row in rows)
        total += len(rows) * width * (1 + width / DEARER) + pass_tokens
    return total


def sorted_rows(lengths: Sequence[int], pass_tokens: float, most_tokens: int, most_rows: int | None = None) -> Plan:
    """The cheapest passes of consecutive rows, sorted by length, each row an example.

    Args:
        lengths: tokens of each example.
        pass_tokens: what a pass costs, in tokens.
        most_tokens: padded tokens of a pass of several rows.
        most_rows: rows of a pass.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    best: list[tuple[float, int]] = [(0.0, 0)]  # of the first rows: least cost, and where their last pass starts
    for stop in range(1, len(order) + 1):
        width = lengths[order[stop - 1]]
        found = (math.inf, stop - 1)
        for start in range(stop - 1, max(stop - 1 - (most_rows or stop), -1), -1):
            tokens = (stop - start) * width
            if tokens > most_tokens and start < stop - 1:
                break
            found = min(found, (best[start][0] + tokens * (1 + width / DEARER) + pass_tokens, start))
        best.append(found)
    plan: Plan = []
    stop = len(order)
    while stop:
        start = best[stop][1]
        plan.insert(0, [[i] for i in order[start:stop]])
        stop = start
    return plan


def packed_rows(lengths: Sequence[int], most_tokens: int) -> list[Plan]:
    """Passes of rows of about equal width, for each number of rows that the longest example allows.

    Examples go, the longest first, to the row that is shortest so far.

    Args:
        lengths: tokens of each example.
        most_tokens: padded tokens of a pass of several rows.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    plans = []
    for number in range(1, sum(lengths) // lengths[order[0]] + 1):
        rows: list[tuple[int, int, Row]] = [(0, i, []) for i in range(number)]
        for i in order:
            width, at, row = rows[0]
            heapq.heapreplace(rows, (width + lengths[i], at, [*row, i]))
        width = max(width for width, _, _ in rows)
        a_pass = max(1, most_tokens // width)
        if number > 1 or width <= most_tokens:
            found = [row for _, _, row in sorted(rows)]
            plans.append([found[start : start + a_pass] for start in range(0, number, a_pass)])
    return plans


def _divided(plan: Plan, fewest: int) -> Plan:
    """The plan with its largest passes halved until there are enough, as far as there are rows."""
    plan = list(plan)
    while len(plan) < min(fewest, sum(map(len, plan))):
        at = max(range(len(plan)), key=lambda i: len(plan[i]))
        middle = len(plan[at]) // 2
        plan[at : at + 1] = [plan[at][:middle], plan[at][middle:]]
    return plan


def _piece(batch: Batch, rows: list[Row], sides: Tensor) -> dict[str, Tensor]:
    if all(len(row) == 1 for row in rows):
        return cut(batch, [row[0] for row in rows], sides)
    source = sides[0].tolist()
    width = max(sum(source[i] for i in row) for row in rows)
    laid = {name: tensor.new_zeros(len(rows), width) for name, tensor in batch.items()}
    laid["labels"].fill_(IGNORED)
    laid["position_ids"] = torch.zeros_like(laid["input_ids"])
    for at, row in enumerate(rows):
        start = 0
        for i in row:
            there = slice(start, start + source[i])
            for name, tensor in batch.items():
                laid[name][at, there] = tensor[i, : source[i]]
            start += source[i]
            laid["position_ids"][at, there] = torch.arange(source[i])
        laid["position_ids"][at, start:] = torch.arange(width - start)  # padding is a sequence of its own
    return laid


def cut(batch: Batch, rows: Sequence[int], sides: Tensor | None = None) -> dict[str, Tensor]:
    """Some rows of a batch without the padding that none of them needs.

    Args:
        batch: padded on the right, or of images.
        rows: their indices.
        sides: as `_lengths` counts them.
    """
    sides = _lengths(batch) if sides is None else sides
    chosen = torch.tensor(list(rows), device=sides.device)
    source, target = (int(side[chosen].max()) for side in sides)
    taken = {name: tensor[chosen] for name, tensor in batch.items()}
    return {
        name: tensor
        if tensor.dim() == 1 or name == PIXELS
        else tensor[:, : target if name == "labels" and target else source].contiguous()
        for name, tensor in taken.items()
    }


def num_samples(piece: Batch) -> int:
    """Number of examples of a piece."""
    if "position_ids" not in piece:
        return len(piece["labels"])
    return int(((piece["position_ids"] == 0) & piece["attention_mask"].bool()).sum())


def _lengths(batch: Batch, config: Any = None) -> Tensor:
    """Tokens of each row's two sides (2, batch): of input_ids; and of labels where a decoder reads them, else 0.

    Args:
        batch: padded on the right; or of images, which have as many tokens as patches.
        config: of the model.
    """
    if is_of_images(batch):
        height, width = batch[PIXELS].shape[-2:]
        source = torch.full_like(batch["labels"], num_patches(config, (height, width)))
        return torch.stack([source, torch.zeros_like(source)])
    mask, labels = batch["attention_mask"], batch["labels"]
    source = mask.sum(dim=1)
    apart = labels.dim() == 2 and bool((labels[:, 0] != IGNORED).all())
    return torch.stack([source, (labels != IGNORED).sum(dim=1) if apart else torch.zeros_like(source)])


def _parameters_in_blocks(model: Any) -> int:
    """Number of parameters outside embeddings and output embeddings."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    embeddings |= {id(p) for p in output.parameters()} if output is not None else set()
    return sum(p.numel() for p in model.parameters() if id(p) not in embeddings)
