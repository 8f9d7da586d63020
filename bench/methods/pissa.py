"""PiSSA (Meng, Wang and Zhang 2024, equations 2 to 4, arXiv:2404.02948).

Agrees with PEFT's init_lora_weights="pissa", which is the authors' code. s = 1: the authors set α = r.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule, Spectral


@dataclass(frozen=True, config=STRICT)
class PiSSA(Method):
    """A and B share the best rank-r approximation of W, both are trained; the base keeps the rest."""

    label: ClassVar[str] = "PiSSA"
    keeps_function: ClassVar[bool] = True

    decomposes: ClassVar[frozenset[Spectral]] = frozenset({"weight"})

    scaling: ScalingRule

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A = √(Σ_r/s) V_rᵀ, lora_B = U_r √(Σ_r/s), of the r largest singular values of W."""
        svd = layer.leading("weight", layer.r)
        root = (svd.S / layer.scaling).sqrt()
        return Factors(root[:, None] * svd.Vh, svd.U * root)
