"""LoRA-GA (Wang, Yu and Li 2024, Algorithm 1, arXiv:2407.05000).

Agrees with the authors' code: direction ArB2r, scale "stable", both factors scaled, the gradient's singular values
unused, s = α/√r; its other directions and scales are options. Departs in the solver of the SVD (the `svd` key, where
the code takes torch.svd_lowrank(q=4r, niter=4)), and in canonical signs. PEFT's init_lora_weights="lora_ga" is another
method: lora_ga_peft.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass

from bench.methods.base import (
    STRICT,
    Factors,
    GradientMode,
    Layer,
    Method,
    ScalingRule,
    Spectral,
    Statistic,
    check_two_blocks,
)


@dataclass(frozen=True, config=STRICT)
class LoRAGA(Method):
    """A and B from different singular vectors, right and left, of the gradient; the base gives way to BA.

    With direction ArB2r or A2rBr and any scale the first step of gradient descent moves W along the best rank-2r
    approximation of the gradient.
    """

    label: ClassVar[str] = "LoRA-GA"
    requires: ClassVar[frozenset[Statistic]] = frozenset({"gradient"})
    keeps_function: ClassVar[bool] = True

    scaling: ScalingRule
    gamma: PositiveFloat
    direction: Literal["ArB2r", "A2rBr", "ArBr", "random"]
    scale: Literal["stable", "unit", "gd", "weight_svd"]
    gradient: GradientMode

    decomposes: ClassVar[frozenset[Spectral]] = frozenset({"gradient"})

    def num_singular(self, r: int) -> int:
        """The first r and the next."""
        return 2 * r

    def check(self, layer: Layer) -> None:
        """Refuses a rank for which there are no vectors r+1..2r."""
        check_two_blocks(self.label, layer)

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A = c V[i]ᵀ, lora_B = c U[j]; i and j are halves of 1..2r by `direction`, c is set by `scale`."""
        svd = layer.leading("gradient", 2 * layer.r)
        of_A, of_B = self._blocks(layer.r, generator)
        c = self._length(layer)
        return Factors(c * svd.Vh[of_A], c * svd.U[:, of_B])

    def _blocks(self, r: int, generator: torch.Generator) -> tuple[list[int], list[int]]:
        """Which singular vectors, from 0, go to A and which to B."""
        if self.direction == "random":
            order = torch.randperm(2 * r, generator=generator).tolist()
            return order[:r], order[r:]
        first, second = list(range(r)), list(range(r, 2 * r))
        even, odd = list(range(0, 2 * r, 2)), list(range(1, 2 * r, 2))
        return {"ArB2r": (first, second), "A2rBr": (second, first), "ArBr": (odd, even)}[self.direction]

    def _length(self, layer: Layer) -> float:
        """The length of every row of A and column of B."""
        if self.scale == "stable":
            return layer.weight.shape[0] ** 0.25 / self.gamma**0.5
        if self.scale == "weight_svd":
            largest = torch.linalg.svdvals(layer.weight)[: layer.r]
            return (largest / layer.scaling).sqrt().mean().item()
        return 1.0 if self.scale == "unit" else 1 / layer.scaling
