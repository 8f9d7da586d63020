"""Ways from stored gradients and weights to factors; each is measured in a process of its own.

Accuracy is the sine of the largest principal angle between the span of a start and the span of the exact singular
vectors that it estimates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

import floors
import ours
import peers
from cost import measured
from peers import Spans
from shape import LLAMA_TINY, Shape, target_layers

GRADIENTS = "gradients.safetensors"

# Which singular vectors of a matrix the left and the right side of a start span, by r.
Columns = tuple[Callable[[int], slice], Callable[[int], slice]]
LEADING: Columns = (lambda r: slice(0, r), lambda r: slice(0, r))
LORA_GA: Columns = (lambda r: slice(r, 2 * r), lambda r: slice(0, r))  # B = U[r:2r], A = V[:r]


def _weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: layer.weight.detach() for name, layer in target_layers(model).items()}


# Makes something of a model, the gradients and r, which is timed; then the spans of what was made, which is not.
CONTENDERS: dict[str, tuple[Callable[..., Any], Callable[[Any], Spans]]] = {
    "lora_ga peer": (peers.lora_ga_from_gradients, peers.lora_ga_spans),
    "lora_ga ours": (lambda model, gradients, r: ours.adapted(model, "lora_ga", r, gradients), ours.spans),
    "lora_sb peer": (lambda _model, gradients, r: peers.lora_sb_spans(gradients, r), dict),
    "lora_sb ours": (lambda model, gradients, r: ours.factors("lora_sb", r, _weights(model), gradients), ours.spans),
    "lora_xs peer": (lambda model, _gradients, r: peers.lora_xs_spans(_weights(model), r), dict),
    "lora_xs ours": (lambda model, gradients, r: ours.factors("lora_xs", r, _weights(model), gradients), ours.spans),
}


@dataclass(frozen=True)
class FactorCost:
    """Seconds of all layers' factors, and a subspace error a layer."""

    seconds: float
    errors: list[float]


def store(shape: Shape, num_samples: int, folder: Path, num_vectors: int) -> None:
    """Writes the gradients, and the exact singular vectors of gradients, signs and weights, for all contenders."""
    model = shape.model()
    found = floors.mean_gradients(model, shape.batches(num_samples))
    gradients = {name: gradient.contiguous() for name, gradient in found.items()}
    save_file(gradients, folder / GRADIENTS)
    signs = {name: gradient.sign() for name, gradient in gradients.items()}
    for method, matrices in {"lora_ga": gradients, "lora_sb": signs, "lora_xs": _weights(model)}.items():
        vectors = {}
        for name, matrix in matrices.items():
            U, _, Vh = torch.linalg.svd(matrix, full_matrices=False)
            vectors[f"{name}.left"] = U[:, :num_vectors].contiguous()
            vectors[f"{name}.right"] = Vh[:num_vectors].T.contiguous()
        save_file(vectors, reference(folder, method))


def reference(folder: Path, method: str) -> Path:
    """The file of the exact singular vectors that a method's factors are made of."""
    return folder / f"{method}.safetensors"


def measure(contender: str, shape: Shape, folder: Path, ranks: Sequence[int]) -> dict[int, FactorCost]:
    """Times a contender at each rank, each time on a new model, from what `store` wrote into the folder."""
    make, spans = CONTENDERS[contender]
    make(LLAMA_TINY.model(), floors.mean_gradients(LLAMA_TINY.model(), LLAMA_TINY.batches(4)), 4)  # lazy libraries
    gradients, costs, method = load_file(folder / GRADIENTS), {}, contender.partition(" ")[0]
    for r in ranks:
        model = shape.model()
        with measured() as cost:
            made = make(model, gradients, r)
        columns = LORA_GA if method == "lora_ga" else LEADING
        costs[r] = FactorCost(cost.seconds, subspace_errors(spans(made), reference(folder, method), columns, r))
    return costs


def subspace_errors(spans: Spans, path: Path, columns: Columns, r: int) -> list[float]:
    """Of each layer, the sine of the largest principal angle to the reference: the worse of its two sides.

    Args:
        spans: of a start.
        path: of the exact singular vectors, by `store`.
        columns: which singular vectors the left and the right side are to span.
        r: rank of the start.
    """
    exact = load_file(path)
    return [
        max(
            _largest_sine(exact[f"{name}.{side}"][:, which(r)], span)
            for side, which, span in zip(("left", "right"), columns, pair, strict=True)
        )
        for name, pair in spans.items()
    ]


def _largest_sine(orthonormal: Tensor, span: Tensor) -> float:
    """Sine of the largest principal angle of two spaces of equal dimension, in float64; exact also near zero."""
    Q = orthonormal.double()
    P = torch.linalg.qr(torch.nn.functional.normalize(span.double(), dim=0)).Q
    return torch.linalg.matrix_norm(P - Q @ (Q.T @ P), ord=2).item()
