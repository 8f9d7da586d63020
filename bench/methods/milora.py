"""MiLoRA (Wang et al. 2024, arXiv:2406.09044).

Agrees with the authors' svd_init.py, mode "min"; s = 1, as there (α = r).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule, exact_svd


@dataclass(frozen=True, config=STRICT)
class MiLoRA(Method):
    """A and B share the part of W with the r smallest singular values, both are trained; the base keeps the rest."""

    label: ClassVar[str] = "MiLoRA"
    keeps_function: ClassVar[bool] = True

    scaling: ScalingRule

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A = √(Σ/s) Vᵀ, lora_B = U √(Σ/s), of the r smallest singular values of W."""
        svd, r = exact_svd(layer.weight), layer.r
        root = (svd.S / layer.scaling).sqrt()
        return Factors(root[-r:, None] * svd.Vh[-r:], svd.U[:, -r:] * root[-r:])
