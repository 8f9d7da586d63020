"""NLoRA (arXiv:2502.14482): a Nyström-like start from the first rows and columns of W.

Agrees with the authors' nlora_init (https://github.com/TracyGuo2001/NLoRA), R = W[:r, :r], where Nyström's
approximation would have its pseudo-inverse, which the code has commented out. W is not shifted, so that the adapted
model differs from the pretrained one at step 0.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule, Trainable


@dataclass(frozen=True, config=STRICT)
class NLoRA(Method):
    """A, R and B are corners and edges of W; all three are trained."""

    label: ClassVar[str] = "NLoRA"
    trains: ClassVar[frozenset[Trainable]] = frozenset({"lora_A", "lora_B", "lora_R"})
    keeps_function: ClassVar[bool] = False

    scaling: ScalingRule

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A = W[:r], lora_B = W[:, :r], lora_R = W[:r, :r]."""
        W, r = layer.weight, layer.r
        return Factors(W[:r].clone(), W[:, :r].clone(), W[:r, :r].clone())
