"""KaSA (Wang et al. 2024, arXiv:2412.06071): W without its r smallest singular components, and trained ones for them.

The adapter is B diag(d) A. The base weight is the best approximation of W of rank min(out, in) - r, and stays so: the
model's function changes at step 0. d starts normal, A and B as LoRA's. A penalty keeps d small, and A and B near
orthonormal.

Agrees with PEFT 0.21.2's kasa_config. The authors' code at f85e88c, as read, does the same where a layer is at least as
high as wide; it truncates to in - r components, which removes nothing of a wide one. The penalty is divided by the
number of layers, as theirs, and takes the r x r Grams, as PEFT's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import NonNegativeFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from bench.methods.base import STRICT, Factors, Layer
from bench.methods.svd import exact_svd
from bench.systems.base import Host, Pair, System, distance_from_orthonormal, needs_method, refuses_dora


@dataclass(frozen=True, config=STRICT)
class KaSA(System):
    """The smallest singular components of W, given up for trained ones.

    Attributes:
        beta: of the sum of d² in the penalty.
        gamma: of the distances of A and B from orthonormality.
    """

    label: ClassVar[str] = "KaSA"
    gated: ClassVar[bool] = True
    keeps_function: ClassVar[bool] = False

    beta: NonNegativeFloat
    gamma: NonNegativeFloat

    def check(self, host: Host) -> None:
        """Refuses methods that read or shift W, and DoRA."""
        needs_method("KaSA", host, ("hu",), "another start has a base weight of its own")
        refuses_dora("KaSA", host, "row norms would be those of a truncated weight")

    def start(self, layer: Layer, factors: Factors, generator: torch.Generator) -> Factors:
        """The method's A and B, d normal."""
        return replace(factors, lora_E=torch.randn(layer.r, generator=generator))

    def check_layer(self, layer: Layer) -> None:
        """Refuses a rank of which a layer would keep no component."""
        smaller = min(layer.weight.shape)
        if layer.r >= smaller:
            raise ValueError(
                f"KaSA drops r = {layer.r} of the singular components of {layer.name}, which has {smaller}; take a "
                f"rank.r of at most {smaller - 1}, or system=none"
            )

    def taken_out(self, layer: Layer) -> Factors:
        """B0 = the last r of U S, divided by s, and A0 = the last r of Vh."""
        found, kept = exact_svd(layer.weight), min(layer.weight.shape) - layer.r
        return Factors(found.Vh[kept:], found.U[:, kept:] * found.S[kept:] / layer.scaling)

    def penalty(self, pairs: Sequence[Pair]) -> Tensor:
        """The mean over layers of β Σ d² + γ (‖BᵀB - I‖_F + ‖A Aᵀ - I‖_F)."""
        found = [
            self.beta * pair.tensors["lora_E"].square().sum()
            + self.gamma * distance_from_orthonormal(pair.tensors["lora_B"].T)
            + self.gamma * distance_from_orthonormal(pair.tensors["lora_A"])
            for pair in pairs
        ]
        return torch.stack(found).mean()
