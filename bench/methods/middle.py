"""Intermediate singular components of W (the idea of arXiv:2602.03493).

Between PiSSA, which takes the first r, and MiLoRA, which takes the last r. That paper's formula has not been read:
which r components count as intermediate is ours, the ones centred in the spectrum. s = 1, as for PiSSA and MiLoRA.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule, exact_svd


@dataclass(frozen=True, config=STRICT)
class Middle(Method):
    """A and B share the part of W with the r singular values in the middle; the base keeps the rest."""

    label: ClassVar[str] = "Middle"
    keeps_function: ClassVar[bool] = True

    scaling: ScalingRule

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A = √(Σ/s) Vᵀ, lora_B = U √(Σ/s), of singular values (k - r)//2 to (k - r)//2 + r of the k of W."""
        svd = exact_svd(layer.weight)
        first = (len(svd.S) - layer.r) // 2
        part = slice(first, first + layer.r)
        root = (svd.S[part] / layer.scaling).sqrt()
        return Factors(root[:, None] * svd.Vh[part], svd.U[:, part] * root)
