"""PEFT's init_lora_weights="lora_ga" (PEFT 0.21, LoraGAConfig's defaults): not the method of the LoRA-GA paper.

B carries the gradient's singular values, A has length 1: B all but vanishes, and the adapter starts close to
"A from the gradient, B zero". Departs from PEFT in the solver of the SVD (the `svd` key), where it takes
svd_lowrank(q=4r, niter=4).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule, Spectral, Statistic, check_two_blocks


@dataclass(frozen=True, config=STRICT)
class LoRAGAPEFT(Method):
    """A from the first r right, B from the next r left singular vectors of the gradient, times their values."""

    label: ClassVar[str] = "LoRA-GA (PEFT)"
    requires: ClassVar[frozenset[Statistic]] = frozenset({"gradient"})
    keeps_function: ClassVar[bool] = True

    scaling: ScalingRule
    gamma: PositiveFloat

    decomposes: ClassVar[frozenset[Spectral]] = frozenset({"gradient"})

    def num_singular(self, r: int) -> int:
        """The first r and the next."""
        return 2 * r

    def check(self, layer: Layer) -> None:
        """Refuses a rank for which there are no vectors r+1..2r."""
        check_two_blocks(self.label, layer)

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A = V[:r]ᵀ, lora_B = out^¼/√γ · U[r:2r] Σ[r:2r]."""
        r, c = layer.r, layer.weight.shape[0] ** 0.25 / self.gamma**0.5
        svd = layer.leading("gradient", 2 * r)
        return Factors(svd.Vh[:r], c * svd.U[:, r:] * svd.S[r:])
