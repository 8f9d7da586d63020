"""Gram matrices of factors, and what gradient maps divide by: pseudo-inverses whose cut is relative to the factor.

An inverse of BᵀB + 1e-8 I, as published codes have it, is not free of scale: where B is of size 1e-5 it loses the part
of the gradient that B's columns hold. A relative cut is exact for B = 0, A = 0 and factors of lower rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Gram:
    """The eigenvalues (r,) and eigenvectors (r, r) of XᵀX, float64; an eigenvalue of a direction that X lacks is 0."""

    values: Float[Tensor, "r"]
    vectors: Float[Tensor, "r r"]

    @classmethod
    def of_columns(cls, X: Float[Tensor, "side r"]) -> Gram:
        """XᵀX; singular values of X below the largest times side times epsilon, as for torch.linalg.matrix_rank, are 0.

        Args:
            X: lora_B, or lora_A transposed.
        """
        values, vectors = torch.linalg.eigh(X.double().T @ X.double())
        cut = max((max(X.shape) * torch.finfo(X.dtype).eps) ** 2, len(values) * torch.finfo(torch.float64).eps)
        return cls(torch.where(values > cut * values.max(), values, 0.0), vectors)

    def inverse(self, ridge: float = 0.0) -> Float[Tensor, "r r"]:
        """(XᵀX + ridge I)⁻¹; without a ridge the pseudo-inverse."""
        shifted = self.values + ridge
        return self.vectors * torch.where(shifted > 0, 1 / shifted, 0.0) @ self.vectors.T
