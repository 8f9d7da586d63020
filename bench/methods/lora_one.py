"""LoRA-One (Zhang, Liu and Chen 2025, Algorithm 1, arXiv:2502.01235).

Agrees with the authors' run_exp.py (direction "LoRA-One", scale "stable", γ = 128, s = α/√r): W is not shifted, so
that the adapted model differs from the pretrained one at step 0 on purpose. Departs in the solver of the SVD (the `svd`
key), where the code takes torch.svd_lowrank(q=512, niter=16). Their README's formula omits the square roots that their
code takes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, GradientMode, Layer, Method, ScalingRule, Spectral, Statistic


@dataclass(frozen=True, config=STRICT)
class LoRAOne(Method):
    """B A is the best rank-r approximation of one step of gradient descent, its largest singular value set to 1/γ."""

    label: ClassVar[str] = "LoRA-One"
    requires: ClassVar[frozenset[Statistic]] = frozenset({"gradient"})
    keeps_function: ClassVar[bool] = False

    scaling: ScalingRule
    gamma: PositiveFloat
    gradient: GradientMode

    decomposes: ClassVar[frozenset[Spectral]] = frozenset({"gradient"})

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A = √(Σ_r/(γ σ₁)) V_rᵀ, lora_B = U_r √(Σ_r/(γ σ₁)), of -G."""
        svd = layer.leading("gradient", layer.r)
        largest = svd.S[0].clamp(min=torch.finfo(svd.S.dtype).tiny)  # of a gradient of zeros
        root = (svd.S / (self.gamma * largest)).sqrt()
        return Factors(-root[:, None] * svd.Vh, svd.U * root)
