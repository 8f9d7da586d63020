"""LoRA-SB (Ponkshe et al. 2024, Algorithm 1, arXiv:2411.19557).

The first step of sign descent, -η sign(G), is truncated to rank r and built into the adapter. W is not shifted:
the adapted model differs from the pretrained one at step 0 on purpose. Departs from the authors' code in taking an
exact SVD (theirs: svd_lowrank with q = r), float32 factors (theirs: bf16) and, by default, the run's own first
learning rate as η (theirs counts the warm-up in calibration batches: eta_mode "official").
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass

from bench.methods.base import (
    STRICT,
    Factors,
    Layer,
    ScalingRule,
    Statistic,
    Trainable,
    required_gradient,
    signed_svd,
)


@dataclass(frozen=True, config=STRICT)
class LoRASB:
    """A and B orthonormal and frozen, R diagonal and positive; only R is trained."""

    label: ClassVar[str] = "LoRA-SB"
    requires: ClassVar[frozenset[Statistic]] = frozenset({"gradient"})
    trains: ClassVar[frozenset[Trainable]] = frozenset({"lora_R"})
    keeps_function: ClassVar[bool] = False

    scaling: ScalingRule = "one"
    eta_mode: Literal["first_warmup_lr", "lr", "official"] = "first_warmup_lr"

    def eta(self, layer: Layer) -> float:
        """The learning rate of the step that is built in."""
        rates = layer.learning_rates
        return {"first_warmup_lr": rates.first, "lr": rates.peak, "official": rates.calibration}[self.eta_mode]

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_B lora_R lora_A = the best rank-r approximation of -η sign(G)."""
        step = -self.eta(layer) * required_gradient(layer).sign()
        U, S, Vh = signed_svd(step)
        r = layer.r
        return Factors(Vh[:r], U[:, :r], torch.diag(S[:r]))
