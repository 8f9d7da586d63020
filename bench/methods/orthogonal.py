"""Orthogonal initialisation (Datta, https://datta0.github.io/posts/rethink-lora-init).

Agrees with PEFT's init_lora_weights="orthogonal", also in the order of its draws.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule


@dataclass(frozen=True, config=STRICT)
class Orthogonal(Method):
    """A and B random and not zero, and yet B A = 0: their r/2-dimensional inner spaces are orthogonal."""

    label: ClassVar[str] = "Orthogonal"
    keeps_function: ClassVar[bool] = True

    scaling: ScalingRule

    def check(self, layer: Layer) -> None:
        """Refuses an odd rank."""
        r = layer.r
        if r % 2:
            raise ValueError(
                f"{self.label} halves the rank, but {layer.name} is to have r = {r}; take an even r, {r - 1} or {r + 1}"
            )

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A = (Z₁ Q_odd)ᵀ/10, lora_B = Z₂ Q_even/10; Q (r, r) orthogonal, Z Gaussian with r/2 columns."""
        r, (num_out, num_in) = layer.r, layer.weight.shape
        Q, _ = torch.linalg.qr(torch.randn(r, r, generator=generator))
        Z1 = torch.randn(num_in, r // 2, generator=generator)
        Z2 = torch.randn(r // 2, num_out, generator=generator).T
        return Factors((Z1 @ Q[0::2]).T / 10, Z2 @ Q[1::2] / 10)
