"""How far the span of a start lies from the span of the exact singular vectors that it estimates."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from peers import Spans

# Singular vectors of a matrix that the left and the right side of a start span, by r.
Columns = Callable[[int], slice]
LEADING: tuple[Columns, Columns] = (lambda r: slice(0, r), lambda r: slice(0, r))
LORA_GA: tuple[Columns, Columns] = (lambda r: slice(r, 2 * r), lambda r: slice(0, r))  # B = U[r:2r], A = V[:r]


def write_reference(matrices: dict[str, Tensor], num_vectors: int, path: Path) -> None:
    """Leading left and right singular vectors of every matrix, by LAPACK."""
    vectors = {}
    for name, matrix in matrices.items():
        U, _, Vh = torch.linalg.svd(matrix, full_matrices=False)
        vectors[f"{name}.left"] = U[:, :num_vectors].contiguous()
        vectors[f"{name}.right"] = Vh[:num_vectors].T.contiguous()
    save_file(vectors, path)


def subspace_errors(spans: Spans, path: Path, columns: tuple[Columns, Columns], r: int) -> list[float]:
    """Of each layer, the sine of the largest principal angle to the reference: the worse of its two sides.

    Args:
        path: what write_reference wrote.
        columns: which singular vectors the left and the right side are to span.
    """
    reference = load_file(path)
    return [
        max(
            largest_sine(reference[f"{name}.{side}"][:, which(r)], span)
            for side, which, span in zip(("left", "right"), columns, pair, strict=True)
        )
        for name, pair in spans.items()
    ]


def largest_sine(orthonormal: Tensor, span: Tensor) -> float:
    """Sine of the largest principal angle of two spaces of equal dimension, in float64; exact also near zero."""
    Q = orthonormal.double()
    P = torch.linalg.qr(torch.nn.functional.normalize(span.double(), dim=0)).Q
    return torch.linalg.matrix_norm(P - Q @ (Q.T @ P), ord=2).item()


def summary(errors: list[float]) -> dict[str, float]:
    """Median and maximum over the layers."""
    return {"median": statistics.median(errors), "max": max(errors)}
