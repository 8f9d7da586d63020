"""The start of PSOFT (PEFT 0.21.2, peft.tuners.psoft).

Agrees with PEFT's layer in A and B, both orders of the singular values, and in R = 1. Departs in training: R is free
here, where PSOFT keeps it orthogonal by a Cayley transform, and there are no magnitude vectors. LoRA-XS has the same
subspace, but another split of the singular values, R near 0, and leaves W as it is.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule, Spectral, Trainable


@dataclass(frozen=True, config=STRICT)
class PSOFT(Method):
    """A and B hold the best rank-r approximation of W, frozen; R between them starts at 1 and is trained."""

    label: ClassVar[str] = "PSOFT's start"
    trains: ClassVar[frozenset[Trainable]] = frozenset({"lora_R"})
    keeps_function: ClassVar[bool] = True

    decomposes: ClassVar[frozenset[Spectral]] = frozenset({"weight"})

    scaling: ScalingRule
    halves: Literal["psoft_init", "pissa_init"]  # PEFT's ab_svd_init

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A = V_rᵀ and lora_B = U_r Σ_r/s of W, or the root √(Σ_r/s) in both; lora_R = 1."""
        svd = layer.leading("weight", layer.r)
        values, lora_R = svd.S / layer.scaling, torch.eye(layer.r, dtype=svd.S.dtype, device=svd.S.device)
        if self.halves == "psoft_init":
            return Factors(svd.Vh, svd.U * values, lora_R)
        return Factors(values.sqrt()[:, None] * svd.Vh, svd.U * values.sqrt(), lora_R)
