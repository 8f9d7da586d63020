"""SoRA (Ding et al. 2023, EMNLP, arXiv:2311.11696): a gate a rank, which a threshold after each step sets to zero.

The adapter is B diag(g) A with g normal and B = 0. `variant: prox` is the proximal step of λ‖g‖₁: after the
optimiser's, g ← sign(g) max(|g| - λ lr, 0). `variant: official` is the authors' code at c275ac2: the threshold is a
constant, whatever the rate; gates between one and two thresholds become zero as well, because its third line tests what
the first two have shifted; and l1_weight times the mean of |g| over all gates is in the loss. The paper's own formula
of the threshold could not be read, so that λ of `prox` is the suite's choice. The code's schedule of thresholds, an
outer loop over whole trainings, is left to a sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from bench.methods.base import STRICT, Factors, Layer
from bench.systems.base import Clock, Host, Pair, State, System, needs_method, refuses_dora, refuses_loraplus


def soft_threshold(g: Float[Tensor, "r"], threshold: float) -> Float[Tensor, "r"]:
    """argmin over x of ½ (x - g)² + threshold |x|, entry by entry."""
    return g.sign() * (g.abs() - threshold).clamp(min=0)


def official_threshold(g: Float[Tensor, "r"], threshold: float) -> Float[Tensor, "r"]:
    """What the authors' three lines make of g: what is beyond the threshold shrinks by it, then what is below is 0."""
    shrunk = torch.where(g.abs() > threshold, g - g.sign() * threshold, g)
    return torch.where(shrunk.abs() < threshold, 0.0, shrunk)


@dataclass(frozen=True, config=STRICT)
class SoRA(System):
    """Gates between A and B, of which training leaves few.

    Attributes:
        variant: the paper's proximal step, or what the authors' code does.
        sparse_lambda: λ of `prox`.
        threshold: ξ of `official`.
        l1_weight: of the mean |g| in the loss of `official`.
    """

    label: ClassVar[str] = "SoRA"
    gated: ClassVar[bool] = True
    undecayed: ClassVar[frozenset[str]] = frozenset({"lora_E"})

    variant: Literal["prox", "official"]
    sparse_lambda: NonNegativeFloat
    threshold: NonNegativeFloat
    l1_weight: NonNegativeFloat

    def check(self, host: Host) -> None:
        """Refuses methods that do not start with B = 0 and A ≠ 0 on the pretrained W, DoRA and LoRA+."""
        needs_method("SoRA", host, ("hu", "eva"), "the gates go between A and B = 0, without which W would move")
        refuses_dora("SoRA", host, "gates are those of W + s B diag(g) A, not of a direction with a magnitude")
        refuses_loraplus("SoRA", host, "its code knows one rate")

    def start(self, layer: Layer, factors: Factors, generator: torch.Generator) -> Factors:
        """The method's A and B, g normal."""
        return replace(factors, lora_E=torch.randn(layer.r, generator=generator))

    def penalty(self, pairs: Sequence[Pair]) -> Tensor | None:
        """Of `official`: l1_weight times the mean of |g|."""
        if self.variant == "prox" or not self.l1_weight:
            return None
        return self.l1_weight * torch.cat([pair.tensors["lora_E"] for pair in pairs]).abs().mean()

    def after_step(self, pairs: Sequence[Pair], state: State, clock: Clock) -> None:
        """The threshold on every gate."""
        for pair in pairs:
            g = pair.tensors["lora_E"]
            if self.variant == "prox":
                g.copy_(soft_threshold(g, self.sparse_lambda * clock.learning_rate))
            else:
                g.copy_(official_threshold(g, self.threshold))
