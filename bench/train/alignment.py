"""Gradient alignment: how well a parametrisation lets the optimiser follow the full gradient. Pure functions.

Notation: W (out, in) the effective weight, G = dL/dW, the adapter s B A, s B R A or s diag(o) B diag(E) A, `trains` the
tensors that move.
Formulas: LoRA-Pro (Wang et al. 2024, arXiv:2407.18242, equations 5 and 9) for both factors; restricted to the trained
ones for the others. `lr_ratio` is the learning rate of B over that of A (LoRA+).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bench.methods.base import Factors
from bench.methods.norms import norm

Matrix = Float[Tensor, "out in"]


def induced_gradient(
    G: Matrix, factors: Factors | None, scaling: float, trains: frozenset[str], lr_ratio: float = 1.0
) -> Matrix:
    """g̃, the direction in which gradient descent on the trained tensors moves W.

    s²(λ G AᵀA + B BᵀG) for A and B with λ = lr_ratio, the first term alone for B, the second alone for A,
    s² B Bᵀ G Aᵀ A for R, G itself if W is trained, zero if nothing is. With M = R or diag(E) between them, A and B
    stand for M A and B M, and what R moves, or s² B diag(diag(Bᵀ G Aᵀ)) A for E, is added. With o behind B, all that
    has o B for B, and s² diag(g) B M A is added, g_i the i-th row of G times that of B M A.

    Args:
        G: dL/dW, (out, in).
        factors: the current A, B, and R or E; None without an adapter.
        scaling: s.
        trains: names of the tensors that the optimiser moves.
        lr_ratio: λ.
    """
    if factors is None:
        return G if "weight" in trains else torch.zeros_like(G)
    A, B = factors.lora_A, factors.left()
    if trains == {"lora_R"}:
        return scaling**2 * B @ (B.T @ G @ A.T) @ A
    induced = torch.zeros_like(G)
    if factors.lora_o is not None and "lora_o" in trains:
        rows = factors.lora_B @ factors.right()
        induced = (G * rows).sum(dim=1, keepdim=True) * rows
    if factors.lora_R is not None:
        if "lora_R" in trains:
            induced = B @ (B.T @ G @ A.T) @ A
        A, B = factors.right(), B @ factors.lora_R
    if factors.lora_E is not None:
        if "lora_E" in trains:
            induced = induced + B * _of_gates(G, A, B) @ A
        A, B = factors.right(), B * factors.lora_E
    if "lora_B" in trains:
        induced = induced + lr_ratio * (G @ A.T) @ A
    if "lora_A" in trains:
        induced = induced + B @ (B.T @ G)
    return scaling**2 * induced


def induced_dora_gradient(
    G: Matrix,
    factors: Factors,
    scaling: float,
    trains: frozenset[str],
    lr_ratio: float,
    V: Matrix,
    magnitude: Float[Tensor, "out"],
) -> Matrix:
    """`induced_gradient` of DoRA, whose effective weight is magnitude · V/‖V‖ row by row, V = W + s B A.

    Liu et al. 2024, arXiv:2402.09353: the backward pass holds ‖V‖ constant (section 4.3), the movement of the effective
    weight does not. The magnitude learns at the rate of B.

    Args:
        G: dL/dW of the effective weight, (out, in).
        factors: the current A and B.
        scaling: s.
        trains: names of the factors that the optimiser moves.
        lr_ratio: learning rate of B and of the magnitude over that of A.
        V: (out, in), with the base weight of the layer as W.
        magnitude: (out,).
    """
    norm = V.norm(dim=1, keepdim=True)
    unit, stretch = V / norm, magnitude[:, None] / norm
    moved = induced_gradient(stretch * G, factors, scaling, trains, lr_ratio)
    across = moved - (moved * unit).sum(dim=1, keepdim=True) * unit
    return stretch * across + lr_ratio * (G * unit).sum(dim=1, keepdim=True) * unit


def attainable_gradient(G: Matrix, factors: Factors | None, trains: frozenset[str]) -> Matrix:
    """g̃*, the projection of G on the space of directions in which the trained tensors can move W.

    P_B G + G P_A - P_B G P_A for A and B, G P_A for B, P_B G for A, P_B G P_A for R, where P_B projects on the
    columns of B and P_A on the rows of A. With E, whose zeros leave a column b_k and a row a_k without a gradient: the
    same of the others, and of what remains of G the part in the span of all b_k a_kᵀ. With A, B and R: the same as for
    A and B, with R A and B R in their place, and of what remains the part in P_B G P_A. For E and o alone: of each row
    of G the part along that of B diag(E) A, and of what remains the part in the span of all (o b_k) a_kᵀ.
    """
    if factors is None:
        return G if "weight" in trains else torch.zeros_like(G)
    if "lora_o" in trains:
        return _attainable_with_rows(G, factors)
    if factors.lora_E is not None:
        return _attainable_with_gates(G, factors.lora_A, factors.lora_B, factors.lora_E != 0)
    if factors.lora_R is not None and trains >= {"lora_A", "lora_B", "lora_R"}:
        return _attainable_with_all(G, factors, factors.lora_R)
    return _attainable_by_two(G, factors, trains)


def _attainable_by_two(G: Matrix, factors: Factors, trains: frozenset[str]) -> Matrix:
    """The projection where A, B or both of s B A train, or R alone of s B R A."""
    columns, rows = _orthonormal(factors.lora_B), _orthonormal(factors.lora_A.T)
    left = columns @ (columns.T @ G)
    if "lora_R" in trains:
        return left @ rows @ rows.T
    right = G @ rows @ rows.T
    if trains >= {"lora_A", "lora_B"}:
        return left + right - left @ rows @ rows.T
    return right if "lora_B" in trains else left


def _of_gates(G: Matrix, A: Float[Tensor, "r in"], B: Float[Tensor, "out r"]) -> Float[Tensor, "r"]:
    """b_kᵀ G a_k."""
    return (B.T @ G * A).sum(dim=1)


def _attainable_with_gates(
    G: Matrix, A: Float[Tensor, "r in"], B: Float[Tensor, "out r"], is_open: Bool[Tensor, "r"]
) -> Matrix:
    """The projection where A, B and E of s B diag(E) A train, and E is zero but where `is_open` says."""
    columns, rows = _orthonormal(B[:, is_open]), _orthonormal(A[is_open].T)

    def outside(X: Tensor, basis: Tensor) -> Tensor:
        return X - basis @ (basis.T @ X)

    rest = outside(outside(G, columns).T, rows).T
    left, right = outside(B[:, ~is_open], columns), outside(A[~is_open].T, rows)
    gram = (left.T @ left) * (right.T @ right)
    found = torch.linalg.pinv(gram, hermitian=True) @ _of_gates(rest, right.T, left)
    return G - rest + left * found @ right.T


def _attainable_with_rows(G: Matrix, factors: Factors) -> Matrix:
    """The projection where E and o of s diag(o) B diag(E) A train, and A and B do not."""
    rows = torch.nn.functional.normalize(factors.lora_B @ factors.right(), dim=1)
    along = (G * rows).sum(dim=1, keepdim=True) * rows
    A, B = factors.lora_A, factors.left()
    shares = B * (rows @ A.T)  # of each b_k a_kᵀ, row by row, what lies along the rows
    gram = (B.T @ B) * (A @ A.T) - shares.T @ shares
    found = torch.linalg.pinv(gram, hermitian=True) @ _of_gates(G - along, A, B)
    added = B * found @ A
    return along + added - (added * rows).sum(dim=1, keepdim=True) * rows


def _attainable_with_all(G: Matrix, factors: Factors, R: Float[Tensor, "r r"]) -> Matrix:
    """The projection where A, B and R of s B R A train; where R is invertible, that of A and B alone."""
    A, B = factors.lora_A, factors.lora_B
    columns, rows = _orthonormal(B @ R), _orthonormal((R @ A).T)
    rest = G - columns @ (columns.T @ G)
    rest = rest - rest @ rows @ rows.T
    left = _orthonormal(B - columns @ (columns.T @ B), B)
    right = _orthonormal(A.T - rows @ (rows.T @ A.T), A)
    return G - rest + left @ (left.T @ rest @ right) @ right.T


def cosine(X: Matrix, Y: Matrix) -> float | None:
    """⟨X, Y⟩ / (‖X‖‖Y‖), Frobenius; None if X or Y is zero."""
    size = norm(X) * norm(Y)
    return None if size == 0 else ((X * Y).sum() / size).item()


def stable_rank(X: Matrix) -> float | None:
    """‖X‖_F² / ‖X‖₂²; None for the zero matrix and for one that is not finite."""
    frobenius = norm(X)
    if frobenius == 0 or not frobenius.isfinite():
        return None
    return (frobenius / torch.linalg.matrix_norm(X, ord=2)).item() ** 2


def low_rank_norms(left: Float[Tensor, "out k"], right: Float[Tensor, "k in"]) -> Float[Tensor, "k"]:
    """The singular values of left @ right, from k × k matrices; k is far below the sides."""
    _, upper = torch.linalg.qr(left)
    _, lower = torch.linalg.qr(right.T)
    return torch.linalg.svdvals(upper @ lower.T)


def _orthonormal(X: Float[Tensor, "side r"], whole: Tensor | None = None) -> Float[Tensor, "side k"]:
    """An orthonormal basis of the columns of X; none where X is zero, up to the rounding of what it is a part of."""
    if not X.shape[1]:
        return X
    U, S, _ = torch.linalg.svd(X, full_matrices=False)
    largest = S.max() if whole is None else torch.linalg.matrix_norm(whole, 2)
    tolerance = largest * max(X.shape) * torch.finfo(X.dtype).eps
    return U[:, tolerance < S]
