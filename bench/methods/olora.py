"""OLoRA (Büyükakyüz 2024, arXiv:2406.01775).

Agrees with PEFT's init_lora_weights="olora": the factors do not know s, so that the base gives way to s Q_r R_r.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule


@dataclass(frozen=True, config=STRICT)
class OLoRA(Method):
    """B and A are the first r columns and rows of W = Q R, both are trained; the base gives way to s B A."""

    label: ClassVar[str] = "OLoRA"
    keeps_function: ClassVar[bool] = True

    scaling: ScalingRule

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_B = Q[:, :r], orthonormal; lora_A = R[:r], upper triangular."""
        Q, R = torch.linalg.qr(layer.weight)
        return Factors(R[: layer.r], Q[:, : layer.r])
