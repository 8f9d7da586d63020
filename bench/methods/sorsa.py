"""SORSA (arXiv:2409.00055): PiSSA with the singular values apart.

Agrees with the authors' sorsa_init (https://github.com/Gunale0926/SORSA) at s = 1, what it has without alpha: at
another s their base gives way to s B diag(S) A of the whole singular values, and so does ours. Departs in training
without their penalty on the distance of A and B from orthonormality.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule, Spectral, Trainable


@dataclass(frozen=True, config=STRICT)
class SORSA(Method):
    """A and B hold the first r singular vectors of W, E the values; all are trained, the base keeps the rest."""

    label: ClassVar[str] = "SORSA's start"
    trains: ClassVar[frozenset[Trainable]] = frozenset({"lora_A", "lora_B", "lora_E"})
    keeps_function: ClassVar[bool] = True

    decomposes: ClassVar[frozenset[Spectral]] = frozenset({"weight"})

    scaling: ScalingRule

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A = V_rᵀ, lora_B = U_r, lora_E the r largest singular values of W."""
        svd = layer.leading("weight", layer.r)
        return Factors(svd.Vh, svd.U, lora_E=svd.S)
