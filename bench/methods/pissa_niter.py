"""PiSSA by a randomised SVD, "fast SVD" (Meng, Wang and Zhang 2024, arXiv:2404.02948).

Agrees with PEFT's init_lora_weights="pissa_niter_K" given the same random draws: torch.svd_lowrank with q = r, no
oversampling. On a flat spectrum its r directions are not the first r of W; PiSSA with the `svd` key's solver is exact.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import NonNegativeInt
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule


@dataclass(frozen=True, config=STRICT)
class PiSSANiter(Method):
    """PiSSA's start from r approximate singular triplets of W; the base keeps what the adapter has not taken."""

    label: ClassVar[str] = "PiSSA, fast SVD"
    keeps_function: ClassVar[bool] = True

    scaling: ScalingRule
    niter: NonNegativeInt

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A = √(S/s) Vᵀ, lora_B = U √(S/s), of svd_lowrank(W, q=r, niter)."""
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        with torch.random.fork_rng():  # svd_lowrank takes no generator
            torch.manual_seed(seed)
            U, S, V = torch.svd_lowrank(layer.weight, q=layer.r, niter=self.niter)
        root = (S / layer.scaling).sqrt()
        return Factors(root[:, None] * V.T, U * root)
