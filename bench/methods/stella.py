"""The start of StelLA (NeurIPS 2025, arXiv:2510.01938).

Agrees with the authors' layer.py (https://github.com/SonyResearch/stella): orthonormal A and B, random or of W, and
R = 1; W is not shifted, so that the adapted model differs from the pretrained one at step 0. Departs in training: here
A and B move freely, where StelLA takes Riemannian gradients and retracts to orthonormal factors after each step.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule, Trainable, exact_svd


@dataclass(frozen=True, config=STRICT)
class StelLA(Method):
    """A and B orthonormal, R between them starts at 1; all three are trained."""

    label: ClassVar[str] = "StelLA's start"
    trains: ClassVar[frozenset[Trainable]] = frozenset({"lora_A", "lora_B", "lora_R"})
    keeps_function: ClassVar[bool] = False

    scaling: ScalingRule
    basis: Literal["random", "svd_major", "svd_minor"]

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A and lora_B r orthonormal rows and columns, uniform or the first or last singular vectors of W."""
        r, (num_out, num_in) = layer.r, layer.weight.shape
        if self.basis == "random":
            lora_A, lora_B = torch.empty(r, num_in), torch.empty(num_out, r)
            for drawn in (lora_B, lora_A):
                torch.nn.init.orthogonal_(drawn, generator=generator)
            return Factors(lora_A, lora_B, torch.eye(r))
        svd = exact_svd(layer.weight)
        part = slice(0, r) if self.basis == "svd_major" else slice(len(svd.S) - r, len(svd.S))
        return Factors(svd.Vh[part], svd.U[:, part], torch.eye(r, dtype=svd.S.dtype, device=svd.S.device))
