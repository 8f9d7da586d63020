"""LoRA-XS (Bałazy et al. 2024, section 3, arXiv:2405.17604).

Agrees with the authors' code in giving all singular values to A and in drawing R with standard deviation 1e-5.
Departs in the solver of the SVD (the `svd` key, where the code takes scikit-learn's), and in s = 1, which is what their
α = r gives for language models (their GLUE runs use α = 16). `basis: random` is their ablation without SVD; its
Kaiming bounds are those of the transposed factors, as in their code.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule, Spectral, Trainable


@dataclass(frozen=True, config=STRICT)
class LoRAXS(Method):
    """A and B hold the best rank-r approximation of W, frozen; only the r × r matrix R between them is trained."""

    label: ClassVar[str] = "LoRA-XS"
    trains: ClassVar[frozenset[Trainable]] = frozenset({"lora_R"})
    keeps_function: ClassVar[bool] = False  # up to R's noise: see r_std

    scaling: ScalingRule
    r_std: PositiveFloat
    basis: Literal["svd", "random"]

    @property
    def decomposes(self) -> frozenset[Spectral]:
        """W, unless the basis is random."""
        return frozenset({"weight"} if self.basis == "svd" else ())

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A = Σ_r V_rᵀ and lora_B = U_r of W, or uniform in ±1/√r and ±1/√out; lora_R normal with r_std."""
        r, (num_out, num_in) = layer.r, layer.weight.shape
        lora_R = self.r_std * torch.randn(r, r, generator=generator)
        if self.basis == "random":
            lora_A = torch.empty(r, num_in).uniform_(-(r**-0.5), r**-0.5, generator=generator)
            lora_B = torch.empty(num_out, r).uniform_(-(num_out**-0.5), num_out**-0.5, generator=generator)
            return Factors(lora_A, lora_B, lora_R)
        svd = layer.leading("weight", r)
        return Factors(svd.S[:, None] * svd.Vh, svd.U, lora_R)
