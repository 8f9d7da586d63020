"""GiVA (AISTATS 2026, arXiv:2604.21901): two trained vectors around frozen singular vectors of the gradient.

Agrees with the authors' layer.py (https://github.com/neerajgangwar/giva), init_weights "VrU2r": r + out numbers a
layer are trained. Departs in the solver of the SVD (the `svd` key, where the code takes torch.svd_lowrank(q=4r,
niter=4)). The code cuts r to half a layer's smaller side; here a larger one is refused.
"""

from __future__ import annotations

from typing import ClassVar

import torch
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
    Trainable,
    check_two_blocks,
)


@dataclass(frozen=True, config=STRICT)
class GiVA(Method):
    """A and B are LoRA-GA's singular vectors of the gradient, frozen; E starts at 1, o at 0, so that o moves first."""

    label: ClassVar[str] = "GiVA"
    requires: ClassVar[frozenset[Statistic]] = frozenset({"gradient"})
    trains: ClassVar[frozenset[Trainable]] = frozenset({"lora_E", "lora_o"})
    keeps_function: ClassVar[bool] = True

    decomposes: ClassVar[frozenset[Spectral]] = frozenset({"gradient"})

    scaling: ScalingRule
    gradient: GradientMode

    def num_singular(self, r: int) -> int:
        """The first r and the next."""
        return 2 * r

    def check(self, layer: Layer) -> None:
        """Refuses a rank for which there are no vectors r+1..2r."""
        check_two_blocks(self.label, layer)

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A = V[:r]ᵀ, lora_B = U[r:2r] of the gradient, lora_E = 1, lora_o = 0."""
        svd, r = layer.leading("gradient", 2 * layer.r), layer.r
        lora_E = torch.ones_like(svd.S[:r])
        return Factors(svd.Vh[:r], svd.U[:, r:], lora_E=lora_E, lora_o=lora_E.new_zeros(len(svd.U)))
