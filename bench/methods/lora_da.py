"""LoRA-DA (ICML 2026, arXiv:2510.24561): a preconditioned step of gradient descent on directions chosen by its size.

Agrees with the authors' lora_da.py (https://github.com/zqy0126/LoRA-DA) and conf/lora_da.yaml, diagonal output Fisher,
factors not balanced: W is not shifted, so that the adapted model differs from the pretrained one at step 0 on purpose.
Departs in exact eigenvectors and an exact σ₁, where the code takes ten iterations of LOBPCG and svd_lowrank, and in
calibration: batches of more than one sample weigh the gradient of each by its label tokens. Another method of the name,
LoRAFactory's, is k_step.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule, Statistic, required
from bench.methods.covariance import reached


@dataclass(frozen=True, config=STRICT)
class LoRADA(Method):
    """A holds r orthogonal directions, B the step along them; both are trained."""

    label: ClassVar[str] = "LoRA-DA"
    requires: ClassVar[frozenset[Statistic]] = frozenset({"gradient", "token_covariance", "output_fisher"})
    keeps_function: ClassVar[bool] = False

    scaling: ScalingRule
    gamma: PositiveFloat
    bias_alpha: PositiveFloat
    variance_beta: NonNegativeFloat
    damping: PositiveFloat
    num_samples: PositiveInt  # of the training set, which divides the variance

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A = Nᵀ/√γ, lora_B = D N/√γ.

        D = -Y⁻¹ G Z⁻¹ over its largest singular value σ₁, with Z the damped covariance of the inputs and Y the diagonal
        of the damped output Fisher; N the eigenvectors of the r smallest eigenvalues of -α DᵀD + β tr(Y⁻¹)/(N σ₁²) Z⁻¹.
        """
        G = reached(layer, "gradient").double()
        Z = required(layer, "token_covariance").double()
        Z_inverse = torch.linalg.inv(Z + self.damping * torch.eye(len(Z), dtype=Z.dtype, device=Z.device))
        Y_inverse = 1 / (required(layer, "output_fisher").double() + self.damping)
        D = -Y_inverse[:, None] * G @ Z_inverse
        largest = torch.linalg.matrix_norm(D, 2)
        D = D / largest
        variance = Y_inverse.sum() / (self.num_samples * largest**2)
        guidance = -self.bias_alpha * D.T @ D + self.variance_beta * variance * Z_inverse
        N = torch.linalg.eigh((guidance + guidance.T) / 2).eigenvectors[:, : layer.r]
        N = N * N.gather(0, N.abs().argmax(dim=0, keepdim=True)).sign()
        dtype, root = layer.weight.dtype, self.gamma**0.5
        return Factors((N.T / root).to(dtype), (D @ N / root).to(dtype))
