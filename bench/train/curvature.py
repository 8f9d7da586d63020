"""The largest eigenvalue of a Hessian, as it is and preconditioned as Adam's first step does. Pure functions.

Adam's first step divides the gradient g by its own magnitude, entry by entry. D = |g| + rms(g), with the root of the
mean square over all trained tensors together, keeps that off zero where A or B has no gradient yet. Gradient descent on
a quadratic is stable below a rate of 2 / λ of H; with a fixed preconditioner λ is that of D^-1/2 H D^-1/2 (Cohen et al.
2022, arXiv:2207.14484, section 2). bench.train.hessian applies this to a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bench.methods.norms import inner, norm
from bench.study.search import place_of, rate_at

Vector = Float[Tensor, "n"]

TOLERANCE = 1e-2  # relative residual at which Lanczos' method ends: the error of the value itself is of its square
NUM_PRODUCTS = 10  # at most, for each eigenvalue of a model
VECTOR_BYTES = 4 * 10  # a trained parameter: its value, g, D, the start, three vectors and what is at work
ASYMMETRY = 0.02  # of the largest entry of T; rounding to float32 leaves 1e-5


@dataclass(frozen=True)
class Eigenvalue:
    """The largest eigenvalue that Lanczos' method found.

    Attributes:
        value: the largest Ritz value, which is never above the largest eigenvalue but for rounding.
        residual: ‖M x - value x‖ / |value| of its unit Ritz vector x: an eigenvalue is relatively so near to it.
        num_products: products with the matrix that were taken.
    """

    value: float
    residual: float
    num_products: int


def largest_eigenvalue(
    product: Callable[[Vector], Vector], start: Vector, num_products: int, tolerance: float = TOLERANCE
) -> Eigenvalue:
    """The largest eigenvalue (not the largest in magnitude) of a symmetric matrix M, by Lanczos' method.

    A new vector is made orthogonal to the two before it. To earlier ones it is so up to rounding over the residual
    (Paige 1976), 1e-5 at the tolerance: they need not be kept, for which full fine-tuning would have no memory.

    Args:
        product: v -> M v.
        start: (n,), not zero.
        num_products: at most.
        tolerance: the relative residual at which no further product is taken.

    Raises:
        ValueError: M is not symmetric, such as a Hessian in which an operation that torch cannot differentiate twice
            counts as a constant: torch.autograd.grad raises no error of it.
    """
    before, x = torch.zeros_like(start), start / norm(start)
    T = torch.zeros(num_products + 1, num_products + 1, dtype=torch.float64)
    for k in range(num_products):
        v = product(x)
        again, T[k, k] = inner(before, v), inner(x, v)
        if k and (off := abs(again.item() - T[k, k - 1].item())) > ASYMMETRY * T.abs().max():
            raise ValueError(
                f"the second derivative is not symmetric (entries that should be equal differ by {off:.3g}): the model "
                "has an operation that cannot be differentiated twice"
            )
        v = v - T[k, k].item() * x - again * before
        for earlier in (x, before):  # once more: the first subtraction leaves rounding behind
            v -= inner(earlier, v) * earlier
        T[k + 1, k] = T[k, k + 1] = norm(v)
        values, vectors = torch.linalg.eigh(T[: k + 1, : k + 1])
        value, left = values[-1].item(), (T[k + 1, k] * vectors[-1, -1]).abs().item()
        residual = left / abs(value) if value else left
        if residual <= tolerance or k + 1 == num_products:
            break
        before, x = x, v / T[k + 1, k].item()
    return Eigenvalue(value, residual, k + 1)


def adam_scale(gradient: Vector) -> Vector:
    """D = |g| + rms(g), entry by entry."""
    return gradient.abs() + gradient.square().mean().sqrt()


def preconditioned(product: Callable[[Vector], Vector], D: Vector) -> Callable[[Vector], Vector]:
    """v -> D^-1/2 H D^-1/2 v, from v -> H v."""
    root = D.rsqrt()
    return lambda v: root * product(root * v)


def centre(constant: float, eigenvalue: float) -> float:
    """c / λ, rounded to the lattice of a search: ..., 1e-3, 1.8e-3, 3.2e-3, 5.6e-3, 1e-2, ...

    Args:
        constant: c.
        eigenvalue: λ > 0, of the preconditioned Hessian.
    """
    return rate_at(place_of(constant / eigenvalue))
