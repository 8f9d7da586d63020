"""The leading singular triplets of a matrix, exactly or by a randomised block Krylov method.

Musco and Musco 2015, Algorithm 2, arXiv:1504.05477, carried out as Golub-Kahan bidiagonalisation in blocks (Golub, Luk
and Overton 1981) with full reorthogonalisation. Departs from both in stopping when an estimate of the error, made of
the singular vectors of the projected matrix alone, is below the wanted one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import ConfigDict, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor


@dataclass(frozen=True)
class SVD:
    """Leading singular triplets, S descending, float32.

    The entry of largest magnitude in each left vector is positive.

    Attributes:
        error: estimated sine of the largest principal angle between the spans of these vectors, or of the first half
            of them, and the exact ones, left and right; 0 for an exact SVD.
    """

    U: Float[Tensor, "out k"]
    S: Float[Tensor, "k"]
    Vh: Float[Tensor, "k in"]
    error: float = 0.0

    def leading(self, k: int) -> SVD:
        """The first k triplets.

        Raises:
            ValueError: there are fewer.
        """
        if k > len(self.S):
            raise ValueError(f"{k} singular triplets asked for, but there are {len(self.S)}; ask for a wider SVD")
        return SVD(self.U[:, :k], self.S[:k], self.Vh[:k], self.error)


@config_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SVDSettings:
    """The `svd` key.

    Attributes:
        rank: how many triplets are kept at least.
        tolerance: of the randomised solver, what `SVD.error` should not exceed.
        sketch_bound: of a sketched gradient, the `SVD.error` above which a layer's gradient is formed instead.
    """

    solver: Literal["randomized", "exact"]
    rank: PositiveInt
    tolerance: PositiveFloat
    sketch_bound: PositiveFloat = 0.5

    def width(self, matrix_shape: tuple[int, ...], needed: int) -> int:
        """How many triplets to keep of a matrix of which a method needs so many."""
        return min(max(self.rank, needed), *matrix_shape)


def exact_svd(matrix: Float[Tensor, "out in"]) -> SVD:
    """The full thin SVD."""
    return _canonical(*torch.linalg.svd(matrix, full_matrices=False))


def leading_svd(matrix: Float[Tensor, "out in"], k: int, settings: SVDSettings, generator: torch.Generator) -> SVD:
    """The first k triplets; draws from `generator`, on the CPU, if the solver is randomised and the matrix large.

    Where a spectrum is too flat for the tolerance within the work that is worth it, `error` says what was reached.

    Args:
        matrix: float64 is kept, anything else becomes float32.

    Raises:
        ValueError: the matrix is not finite, or has fewer than k triplets.
    """
    matrix = matrix if matrix.dtype == torch.float64 else matrix.float()
    _check(matrix, k)
    limit = _widest_basis(k, settings.tolerance)
    if settings.solver == "exact" or 2 * limit > min(matrix.shape):
        return exact_svd(matrix).leading(k)
    found = _block_krylov(matrix, k, limit, settings.tolerance, generator)
    return exact_svd(matrix).leading(k) if found is None else found


def _check(matrix: Float[Tensor, "out in"], k: int) -> None:
    if k > min(matrix.shape):
        raise ValueError(f"{k} singular triplets asked for of a matrix of shape {tuple(matrix.shape)}")
    if not matrix.sum().isfinite() and not matrix.isfinite().all():  # the sum alone is 40 times as fast
        raise ValueError(f"a matrix of shape {tuple(matrix.shape)} has entries that are not finite; no SVD exists")


def _canonical(U: Float[Tensor, "out k"], S: Float[Tensor, "k"], Vh: Float[Tensor, "k in"], error: float = 0.0) -> SVD:
    """LAPACK's signs are arbitrary, but LoRA-GA pairs left and right vectors of different indices."""
    largest = U.gather(0, U.abs().argmax(dim=0, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0).to(U.dtype)
    return SVD(U * signs, S, Vh * signs.T, error)


def _widest_basis(k: int, tolerance: float) -> int:
    return math.ceil((2 * k + 96) * math.log(2 / tolerance) / math.log(2 / 1e-3))


def _block_width(k: int) -> int:
    return 16 if k <= 32 else 32 if k <= 64 else 64


def _block_krylov(
    matrix: Float[Tensor, "out in"], k: int, limit: int, tolerance: float, generator: torch.Generator
) -> SVD | None:
    """None if the matrix has, up to rounding, a rank below the size of the basis."""
    width = _block_width(k)
    steps = limit // width
    size = width * steps
    right, left = matrix.new_empty(size, matrix.shape[1]), matrix.new_empty(size, matrix.shape[0])
    projected = matrix.new_zeros(size, size)
    block = torch.randn(width, matrix.shape[0], generator=generator).to(matrix) @ matrix
    for step in range(steps):
        old, new = slice(step * width), slice(step * width, (step + 1) * width)
        right[new], _, corner = _orthonormal(block, right[old])
        left[new], projected[new, old], projected[new, new] = _orthonormal(right[new] @ matrix.T, left[old])
        if step == 0:
            scale = corner.diagonal().abs().max() * 0
            scale = projected[new, new].diagonal().abs().max()
        if projected[new, new].diagonal().abs().min() <= 1e2 * torch.finfo(matrix.dtype).eps * scale:
            return None
        m = new.stop
        if step == steps - 1 or m >= 2 * k + 2 * width:
            Zh, S, Yh = torch.linalg.svd(projected[:m, :m])
            error = _error(Zh, S, k, width)
            if error <= tolerance:
                break
        block = left[new] @ matrix
    return _canonical((Yh[:k] @ left[:m]).T, S[:k], Zh[:, :k].T @ right[:m], error)


def _orthonormal(block, basis):
    first = block @ basis.T
    block = torch.addmm(block, first, basis, alpha=-1)
    second = block @ basis.T
    Q, R = torch.linalg.qr(block.addmm_(second, basis, alpha=-1).T)
    return Q.T, first + second, R.T


def _error(Z, S, k, width) -> float:
    return max(_error_at(Z, S, h, width) for h in {max(k // 2, 1), k})


def _error_at(Z, S, h, width) -> float:
    d1 = torch.linalg.matrix_norm(Z[-width:, :h], 2)
    d2 = torch.linalg.matrix_norm(Z[-2 * width :, :h], 2)
    outer = d1 * d1 / d2
    gap = (S[h - 1] - S[h]).clamp(min=torch.finfo(S.dtype).tiny)
    rounding = torch.finfo(S.dtype).eps * S[0] / gap
    K = Z[-width:] * (d1 / d2)
    mix = (K[:, :h].T @ K[:, h:]) * S[h - 1] ** 2 / (S[:h, None] ** 2 - S[None, h:] ** 2).clamp(min=1e-30)
    mixing = torch.linalg.matrix_norm(mix.nan_to_num(), 2)
    return min(1.0, float(outer + mixing + rounding))
