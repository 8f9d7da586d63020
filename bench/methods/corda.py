"""CorDA (Yang et al. 2024, arXiv:2406.05223).

Agrees with PEFT's init_lora_weights="corda", which is the authors' code, given the same inputs: each sequence is
divided by the magnitude of its largest entry, the covariance is damped by 1 % of its mean diagonal, doubled until its
inverse is good. s = 1: the authors set α = r.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule, Statistic, exact_svd, required

SMALLEST_DAMPING = 0.01
LARGEST_ERROR = 0.05  # Frobenius norm of C C⁻¹ - 1


def _damped(covariance: Float[Tensor, "in in"]) -> tuple[Float[Tensor, "in in"], Float[Tensor, "in in"]]:
    """The covariance with as much added to its diagonal as a usable inverse needs; and that inverse."""
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    damping = SMALLEST_DAMPING
    mean = covariance.diagonal().mean()
    scale = mean if mean > 0 else torch.ones_like(mean)  # of a layer without inputs: the start is then PiSSA's
    while True:
        C = covariance + damping * scale * identity
        inverse = torch.linalg.inv(C)
        if (C @ inverse - identity).norm() < LARGEST_ERROR:
            return C, inverse
        damping *= 2


@dataclass(frozen=True, config=STRICT)
class CorDA(Method):
    """A and B share a part of W chosen by the singular values of W C, C the covariance of the layer's inputs."""

    label: ClassVar[str] = "CorDA"
    requires: ClassVar[frozenset[Statistic]] = frozenset({"input_covariance"})
    keeps_function: ClassVar[bool] = True

    scaling: ScalingRule
    mode: Literal["ipm", "kpm"]  # instruction-previewed: the r largest; knowledge-preserved: the r smallest

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A = √(Σ/s) Vᵀ C⁻¹, lora_B = U √(Σ/s), where W C = U Σ Vᵀ."""
        C, inverse = _damped(required(layer, "input_covariance"))
        svd = exact_svd(layer.weight @ C)
        part = slice(0, layer.r) if self.mode == "ipm" else slice(len(svd.S) - layer.r, len(svd.S))
        root = (svd.S[part] / layer.scaling).sqrt()
        return Factors(root[:, None] * (svd.Vh[part] @ inverse), svd.U[:, part] * root)
