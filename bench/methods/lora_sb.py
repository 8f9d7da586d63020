"""LoRA-SB (Ponkshe et al. 2024, Algorithm 1, arXiv:2411.19557).

The first step of sign descent, -η sign(G), is truncated to rank r and built into the adapter. W is not shifted:
the adapted model differs from the pretrained one at step 0 on purpose. By default departs from the authors' code in
the solver of the SVD (the `svd` key), float32 factors and the run's own first learning rate as η. `variant: official`
does as the code does: svd_lowrank with q = r and its fixed seed, factors rounded to bfloat16, η from a warm-up counted
in calibration batches; R is trained in float32 all the same, as in their GLUE runs.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import field_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from bench.methods.base import (
    STRICT,
    Factors,
    GradientMode,
    Layer,
    Method,
    ScalingRule,
    Spectral,
    Statistic,
    Trainable,
    required,
)


@dataclass(frozen=True, config=STRICT)
class LoRASB(Method):
    """A and B orthonormal and frozen, R diagonal and positive; only R is trained."""

    label: ClassVar[str] = "LoRA-SB"
    requires: ClassVar[frozenset[Statistic]] = frozenset({"gradient"})
    trains: ClassVar[frozenset[Trainable]] = frozenset({"lora_R"})
    keeps_function: ClassVar[bool] = False
    reads_learning_rates: ClassVar[bool] = True

    scaling: ScalingRule
    variant: Literal["exact", "official"]
    eta_mode: Literal["first_warmup_lr", "lr", "official"] | None  # None: first_warmup_lr, or the variant's own

    gradient: GradientMode

    @field_validator("gradient")
    @classmethod
    def _no_sketch(cls, gradient: GradientMode) -> GradientMode:
        if gradient == "sketch":
            raise ValueError(
                "LoRA-SB takes the sign of each entry of the gradient, which a sketch does not hold; exact"
            )
        return gradient

    @property
    def decomposes(self) -> frozenset[Spectral]:
        """The signs; the official variant decomposes them itself, as its authors do."""
        return frozenset({"gradient_sign"} if self.variant == "exact" else ())

    def eta(self, layer: Layer) -> float:
        """The learning rate of the step that is built in."""
        rates = layer.learning_rates
        mode = self.eta_mode or ("official" if self.variant == "official" else "first_warmup_lr")
        return {"first_warmup_lr": rates.first, "lr": rates.peak, "official": rates.calibration}[mode]

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_B lora_R lora_A = the best rank-r approximation of -η sign(G), or the official estimate of it."""
        if self.variant == "official":
            return _official(-self.eta(layer) * required(layer, "gradient").sign(), layer.r)
        svd = layer.leading("gradient_sign", layer.r)
        return Factors(-svd.Vh, svd.U, torch.diag(self.eta(layer) * svd.S))


def _official(step: Float[Tensor, "out in"], r: int) -> Factors:
    """The authors' get_svd_grad, with its seed and the draw it discards; the global stream is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(42)
        torch.randn(step.shape[0], r)
        right, S, left = torch.svd_lowrank(step.T, q=r, niter=10)
    A, B, values = (part.to(torch.bfloat16).to(step.dtype) for part in (right.T, left, S))
    return Factors(A, B, torch.diag(values))
