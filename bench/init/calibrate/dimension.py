"""Intrinsic dimensions of the hidden states before and after each block, by the two nearest neighbours (TwoNN).

Facco et al. 2017 (arXiv:1803.06992): in d dimensions the ratio μ of a point's distances to its second and first
neighbour has a logarithm that is exponentially distributed with rate d, so that d is (N - 1) / Σ ln μ over N points. It
scatters by about d / √N; of points in a cube it is too low by 6 % at d = 5 and 10 % at d = 8, N being 2,000.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from bench.model.gradients import Batch, rows_mask, token_masks
from bench.model.images import PIXELS, is_of_images
from bench.model.layers import evaluating
from bench.model.loss import mean_loss
from bench.process import ranks

FEWEST = 3  # points that have two neighbours
ENOUGH = 50  # points, below which the scatter is over an eighth of d
SAME = 1e-9  # of the length of the longest: points as near are one, as are means of equal embeddings in another order


def block_dimensions(
    model: PreTrainedModel, layers: Mapping[str, nn.Linear], batches: Sequence[Batch]
) -> dict[str, Float[Tensor, "2"]]:
    """For each target layer, the dimension of the samples before and after its block; zeros outside any block.

    A sample is one point: the mean of a block's input, or output, over its tokens, padding left out. A block is an
    element of the outermost nn.ModuleList around the layer; of one that is called several times in a pass, before the
    first call and after the last.

    Args:
        model: left as it was.
        layers: target layers by name.
        batches: calibration batches; the first process passes over them, and every process is told.

    Raises:
        ValueError: fewer than 3 samples differ, or the rows that a block is given are not the samples' tokens.
    """
    of_layer = {name: _block(model, name) for name in layers}
    blocks = {name: model.get_submodule(name) for name in of_layer.values() if name}
    own = _dimensions(model, blocks, batches) if ranks.rank() == 0 else None
    found = cast(dict[str, tuple[float, float]], ranks.broadcast_object(own))
    return {name: torch.tensor(found[block] if block else (0.0, 0.0)) for name, block in of_layer.items()}


def _dimensions(
    model: PreTrainedModel, blocks: Mapping[str, nn.Module], batches: Sequence[Batch]
) -> dict[str, tuple[float, float]]:
    kept = _distinct(model, batches)
    if len(kept) < ENOUGH:
        warnings.warn(
            f"intrinsic dimensions of {len(kept)} calibration samples scatter by {len(kept) ** -0.5:.0%}; raise "
            f"task.calibration_samples to {ENOUGH} or more",
            stacklevel=4,
        )
    points = _points(model, blocks, batches)
    return {
        name: (two_nn(torch.cat(before)[kept]), two_nn(torch.cat(after)[kept]))
        for name, (before, after) in points.items()
    }


def _distinct(model: PreTrainedModel, batches: Sequence[Batch]) -> list[int]:
    """The places of the samples that no earlier one equals, token for token or pixel for pixel."""
    first: dict[tuple, int] = {}
    place = 0
    for batch in batches:
        if is_of_images(batch):
            for image in batch[PIXELS]:
                first.setdefault(tuple(image.flatten().tolist()), place)
                place += 1
            continue
        source, target = token_masks(model, batch)
        for row, (ids, kept) in enumerate(zip(batch["input_ids"], source, strict=True)):
            answer = () if target is None else batch["labels"][row][target[row]].tolist()
            first.setdefault((*ids[kept].tolist(), None, *answer), place)
            place += 1
    return list(first.values())


def two_nn(points: Float[Tensor, "N width"]) -> float:
    """The intrinsic dimension of points; those that coincide count once.

    Raises:
        ValueError: fewer than 3 differ.
    """
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    again = (distances <= SAME * points.norm(dim=1).max()).tril(-1).any(dim=1)
    distances = distances[~again][:, ~again]
    if len(distances) < FEWEST:
        raise ValueError(
            f"an intrinsic dimension takes {FEWEST} samples that differ, and there are {len(distances)}: raise "
            f"task.calibration_samples, which should be {ENOUGH} or more"
        )
    _itself, first, second = distances.topk(3, largest=False).values.T
    return (len(distances) - 1) / (second / first).log().sum().item()


def _block(model: nn.Module, layer: str) -> str | None:
    """The path of the block that a layer is in."""
    parts = layer.split(".")
    for end in range(1, len(parts)):
        if isinstance(model.get_submodule(".".join(parts[: end - 1])), nn.ModuleList):
            return ".".join(parts[:end])
    return None


def _points(
    model: PreTrainedModel, blocks: Mapping[str, nn.Module], batches: Sequence[Batch]
) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
    """The samples' means (samples, width) before and after each block, a batch each, float64."""
    found: dict[str, tuple[list[Tensor], list[Tensor]]] = {name: ([], []) for name in blocks}
    batch: Batch = {}
    means: dict[str, tuple[Tensor, Tensor]] = {}

    def mean(name: str, hidden: Tensor) -> Tensor:
        mask = rows_mask(model, name, hidden.shape[:-1], batch)
        if mask is None:
            raise ValueError(f"{name} is not given the samples' tokens, of which it would have a dimension")
        weights = mask.double()[..., None]
        return (hidden.reshape(*mask.shape, -1) * weights).sum(dim=1) / weights.sum(dim=1)

    def watch(name: str) -> Callable:
        def after(_block: nn.Module, args: tuple, named: Mapping[str, Tensor], output: Tensor | tuple) -> None:
            before = means[name][0] if name in means else mean(name, args[0] if args else named["hidden_states"])
            means[name] = before, mean(name, output[0] if isinstance(output, tuple) else output)

        return after

    with evaluating(model), torch.no_grad(), ExitStack() as stack:
        for name, block in blocks.items():
            stack.callback(block.register_forward_hook(watch(name), with_kwargs=True).remove)
        for given in batches:
            batch = {key: tensor.to(model.device) for key, tensor in given.items()}
            means.clear()
            mean_loss(model, batch)
            for name, sides in means.items():
                for points, side in zip(found[name], sides, strict=True):
                    points.append(side)
    return found
