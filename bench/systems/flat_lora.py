"""Flat-LoRA (Li et al. 2025, ICML, arXiv:2409.14396): trains under random noise on the whole merged weight.

In the passes of a step the weight is W' + ε, W' = W + s B A, with ε_ij normal of variance σ_t² ‖W'_i‖² / n, row by
row, and σ_t = ½ σ (1 - cos(π t / T)). One ε a step, over all of its batches; in the backward pass it is a constant. The
curve has the loss under noise, the first one without, since σ_0 = 0; validation and measures see no noise.

Follows the authors' code at 16d48ae, as read, in distribution and schedule. Departs: t counts steps, theirs batches;
noise has a stream of its own, where theirs reseeds the run's from the clock; the tensor that was there is put back,
where theirs subtracts what it added, which moves a bfloat16 weight by 6e-3 of its norm in 100 steps.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from bench.methods.base import STRICT
from bench.systems.base import Clock, Host, System, refuses_dora


@dataclass(frozen=True, config=STRICT)
class FlatLoRA(System):
    """Noise on the merged weight of a relative size that rises from zero to σ; the gradient is the host's there."""

    label: ClassVar[str] = "Flat-LoRA"
    adds_noise: ClassVar[bool] = True

    sigma: NonNegativeFloat

    def check(self, host: Host) -> None:
        """Refuses methods without an adapter, and DoRA."""
        if not host.method.has_adapter:
            raise ValueError(
                f"Flat-LoRA needs a frozen weight for its noise, and method={host.name} has no adapter; take another, "
                "such as method=hu, or system=none"
            )
        refuses_dora("Flat-LoRA", host, "its row norms would rescale the noise")

    def relative_size(self, step: int, max_steps: int) -> float:
        """σ_t of a step, from 1: zero at the first."""
        return 0.5 * self.sigma * (1 - math.cos(math.pi * (step - 1) / max_steps))

    def noise(self, weight: Float[Tensor, "out in"], layer: str, clock: Clock) -> Float[Tensor, "out in"] | None:
        """ε of one layer; None where σ_t is zero."""
        size = self.relative_size(clock.step, clock.max_steps)
        if not size:
            return None
        generator = clock.stream(f"flat_lora/{layer}/{clock.step}", weight.device)
        drawn = torch.randn(weight.shape, generator=generator, device=weight.device, dtype=weight.dtype)
        return drawn * (size / weight.shape[1] ** 0.5 * weight.norm(dim=1, keepdim=True))
