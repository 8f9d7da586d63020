"""The leading singular triplets of a matrix, exactly or by a randomised block Krylov method.

Musco and Musco 2015, Algorithm 2, arXiv:1504.05477, carried out as Golub-Kahan bidiagonalisation in blocks (Golub, Luk
and Overton 1981) with full reorthogonalisation. Departs from both in stopping when an estimate of the error, made of
the singular vectors of the projected matrix alone, is below the tolerance.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import ConfigDict, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass as config_dataclass
from scipy.linalg import blas
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
    """The `svd` key; conf/config.yaml states its values.

    Attributes:
        solver: randomized: `leading_svd`'s block Krylov method, where the matrix is large; exact: LAPACK's.
        rank: number of triplets to keep at least.
        tolerance: bound on `SVD.error` that the randomised solver aims at.
        sketch_bound: `SVD.error` of a sketched gradient above which the layer's gradient is formed instead.
    """

    solver: Literal["randomized", "exact"]
    rank: PositiveInt
    tolerance: PositiveFloat
    sketch_bound: PositiveFloat

    def identity(self, sketched: bool) -> dict[str, Any]:
        """The settings that can change a number, for a run that takes a sketch of the gradient or not."""
        kept = asdict(self)
        return kept if sketched else {key: value for key, value in kept.items() if key != "sketch_bound"}

    def width(self, matrix_shape: tuple[int, ...], needed: int) -> int:
        """Number of triplets to keep of a matrix of this shape, of which the method needs `needed`."""
        return min(max(self.rank, needed), *matrix_shape)


# LAPACK's solver, no triplets but those needed, and no sketch formed again: the sine of an angle is at most 1.
EXACT = SVDSettings(solver="exact", rank=1, tolerance=1e-3, sketch_bound=1.0)


def exact_svd(matrix: Float[Tensor, "out in"]) -> SVD:
    """The full thin SVD, as LAPACK has it but for the signs."""
    return canonical(*torch.linalg.svd(matrix, full_matrices=False))


def tall_svd(matrix: Float[Tensor, "out in"]) -> SVD:
    """`exact_svd` through the transpose if the matrix is wide: LAPACK takes half as long, and rounds differently."""
    if matrix.shape[0] >= matrix.shape[1]:
        return exact_svd(matrix)
    V, S, Uh = torch.linalg.svd(matrix.T, full_matrices=False)
    return canonical(Uh.T, S, V.T)


@torch.no_grad()
def leading_svd(matrix: Float[Tensor, "out in"], k: int, settings: SVDSettings, generator: torch.Generator) -> SVD:
    """The first k triplets; the randomised solver draws from `generator`, on the CPU, if the matrix is large.

    If a spectrum is too flat to reach the tolerance in a basis of moderate size, `error` says what was reached.

    Args:
        matrix: float64 is kept, anything else becomes float32.
        k: number of triplets, at most the matrix's smaller side.
        settings: solver and tolerance.
        generator: of the randomised solver's starting block.

    Raises:
        ValueError: the matrix is not finite, or has fewer than k triplets.
    """
    matrix = matrix if matrix.dtype == torch.float64 else matrix.float()
    _check(matrix, k)
    if settings.solver == "exact":
        return exact_svd(matrix).leading(k)
    limit, found = _largest_basis(k, settings.tolerance), None
    if 2 * limit <= min(matrix.shape):
        solve = _through_gram if _gram_pays(matrix.shape, limit) else _block_krylov
        found = solve(matrix, k, limit, settings.tolerance, generator)
    return tall_svd(matrix).leading(k) if found is None else found


def _check(matrix: Float[Tensor, "out in"], k: int) -> None:
    if k > min(matrix.shape):
        raise ValueError(f"a matrix of shape {tuple(matrix.shape)} has no {k} singular triplets; ask for fewer")
    if not matrix.sum().isfinite() and not matrix.isfinite().all():  # the sum alone is 40 times as fast
        raise ValueError(f"a matrix of shape {tuple(matrix.shape)} with entries that are not finite has no SVD")


def canonical(U: Float[Tensor, "out k"], S: Float[Tensor, "k"], Vh: Float[Tensor, "k in"], error: float = 0.0) -> SVD:
    """The same triplets with the signs that SVD states.

    LAPACK's are arbitrary, but LoRA-GA pairs left and right vectors of different indices.
    """
    largest = U.gather(0, U.abs().argmax(dim=0, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0).to(U.dtype)
    return SVD(U * signs, S, Vh * signs.T, error)


def _largest_basis(k: int, tolerance: float) -> int:
    """How many vectors the Krylov basis may have; the number that an error takes grows with its logarithm.

    Most gradients take 64 to 96 vectors for k = 8 and 16 at tolerance 1e-3. Random matrices have no gaps: their error
    stays near 1 whatever the limit, which then bounds the time (experiments/LOG.md).
    """
    return math.ceil((2.5 * k + 60) * math.log(2 / tolerance) / math.log(2 / 1e-3))


def _gram_pays(shape: torch.Size, limit: int) -> bool:
    """Whether forming the Gram matrix of the short side costs less than it saves in products with the long one."""
    short, long = sorted(shape)
    return limit * (long - short) > 0.2 * short * long  # 0.2: a wide product runs at twice the speed of narrow ones


def _through_gram(
    matrix: Float[Tensor, "out in"], k: int, limit: int, tolerance: float, generator: torch.Generator
) -> SVD | None:
    """From the Gram matrix H of the short side: products with it are cheap, and H² separates singular values faster.

    Rounding of H drowns singular values below 1e-3 of the first; then the matrix itself is multiplied with.
    """
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    length = torch.linalg.vector_norm(tall).clamp(min=torch.finfo(tall.dtype).tiny)
    gram = _gram(tall / length)  # of length 1, its squares neither over- nor underflow
    found = _block_krylov(gram, k, math.ceil(limit / math.sqrt(2)), tolerance, generator, width=8)
    if found is None or found.S[-1] < 1e-3 * found.S[0]:
        return _block_krylov(matrix, k, limit, tolerance, generator)
    far, S, turn = torch.linalg.svd(tall @ found.U, full_matrices=False)
    near = turn @ found.U.T
    return canonical(far, S, near, found.error) if tall is matrix else canonical(near.T, S, far.T, found.error)


def _gram(tall: Float[Tensor, "long short"]) -> Float[Tensor, "short short"]:
    """AᵀA; on the CPU one triangle of it by BLAS's syrk, which torch does not offer, in half the time of a product."""
    if tall.is_cuda:
        return tall.T @ tall
    syrk = blas.dsyrk if tall.dtype == torch.float64 else blas.ssyrk
    by_column = tall.T.is_contiguous()
    upper = torch.from_numpy(syrk(1.0, tall.numpy(), trans=1) if by_column else syrk(1.0, tall.T.numpy()))
    return upper + upper.triu(1).T


def _block_krylov(
    matrix: Float[Tensor, "out in"],
    k: int,
    limit: int,
    tolerance: float,
    generator: torch.Generator,
    width: int = 16,  # at 12 and 8 the CPU's matrix product gains nothing, at 32 the basis grows faster than it learns
) -> SVD | None:
    """Singular vectors within the span of blocks, each the last one multiplied with the matrix and its transpose.

    Bases are stacks of rows, the layout in which narrow products are fastest: right Aᵀ = projected left.

    Returns:
        None if the basis comes to hold the whole range, as that of a matrix of low rank, without reaching k.
    """
    steps = max(limit // width, -(-k // width) + 1)
    right, left = (matrix.new_empty(steps * width, side) for side in reversed(matrix.shape))
    projected = matrix.new_zeros(steps * width, steps * width)
    block = torch.randn(width, matrix.shape[0], generator=generator).to(matrix) @ matrix
    check = max(3 * k + width, 64)  # fewer vectors are hardly ever enough, and a look costs as much as a block
    for end in range(width, steps * width + 1, width):
        old, new = slice(end - width), slice(end - width, end)
        right[new], _, _ = _orthonormal(block, right[old], passes=2)
        # One side kept orthonormal to rounding keeps the other so: Simon and Zha 2000.
        left[new], projected[new, old], projected[new, new] = _orthonormal(right[new] @ matrix.T, left[old], passes=1)
        exhausted = _exhausted(projected[:end, :end], width)
        size = old.stop if exhausted else end
        if exhausted and size <= k + width:
            return None
        if exhausted or check <= end <= len(right) - 2 * width or end == len(right):
            Zh, S, Yh = torch.linalg.svd(projected[:size, :size])
            error = _error(Zh, S, k, width)
            if error <= tolerance or end == len(right):
                break
            if exhausted:
                return None
            check = end + width * int(math.log(error / tolerance, 30))  # one block divides the error by 30 at most
        block = left[new] @ matrix
    return canonical((Yh[:k] @ left[:size]).T, S[:k], Zh[:, :k].T @ right[:size], error)


def _orthonormal(
    block: Float[Tensor, "width side"], basis: Float[Tensor, "old side"], passes: int
) -> tuple[Float[Tensor, "width side"], Float[Tensor, "width old"], Float[Tensor, "width width"]]:
    """Q, C, R with block = C basis + R Q, the rows of Q orthonormal and orthogonal to the basis."""
    shares = block.new_zeros(len(block), len(basis))
    for _ in range(passes):
        share = block @ basis.T
        block = torch.addmm(block, share, basis, alpha=-1)
        shares += share
    Q, R = torch.linalg.qr(block.T)
    return Q.T, shares, R.T


def _exhausted(projected: Float[Tensor, "size size"], width: int) -> bool:
    """Whether the last block adds nothing but rounding to the range."""
    added = projected.diagonal().abs()
    return bool(added[-width:].min() <= 100 * torch.finfo(added.dtype).eps * added.max())


def _error(Z: Float[Tensor, "size size"], S: Float[Tensor, "size"], k: int, width: int) -> float:
    """Of the spans of the first k and of the first k / 2 vectors, which LoRA-GA gives to one factor each."""
    return max(_error_of_span(Z, S, h, width) for h in {k, max(1, k // 2)})


def _error_of_span(Z: Float[Tensor, "size size"], S: Float[Tensor, "size"], h: int, width: int) -> float:
    """Estimated sine of the angle between the exact span and that of the basis combined by Z's first h columns.

    The share of the last block in these vectors is what was missing before it. What is missing now is as much
    smaller as that is than the share of the last two. It lies outside the basis, but also turns the h vectors
    towards the others inside, the more the closer their singular values are, to first order in the perturbation of
    the squared ones. Rounding does the same.
    """
    last, last_two = (Z[-blocks * width :, :h].norm() for blocks in (1, 2))
    shrinking = last / last_two
    missing = Z[-width:] * shrinking * S[h - 1]
    gaps = (S[:h, None] ** 2 - S[h:] ** 2).clamp(min=torch.finfo(S.dtype).tiny)
    turned = (missing[:, :h].T @ missing[:, h:] / gaps).norm()
    rounding = torch.finfo(S.dtype).eps * S[0] / (S[h - 1] - S[h]) / math.sqrt(h)
    total = float(last * shrinking + turned + rounding)
    return total if total < 1 else 1.0
