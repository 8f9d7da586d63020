"""MiCA (arXiv:2604.01694).

Agrees with PEFT's init_lora_weights="mica".
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule, Trainable, exact_svd


@dataclass(frozen=True, config=STRICT)
class MiCA(Method):
    """B frozen at the left singular vectors of W with the r smallest singular values; A zero and trained."""

    label: ClassVar[str] = "MiCA"
    trains: ClassVar[frozenset[Trainable]] = frozenset({"lora_A"})
    keeps_function: ClassVar[bool] = True

    scaling: ScalingRule

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A zero, lora_B = U[:, -r:]."""
        U = exact_svd(layer.weight).U
        return Factors(torch.zeros(layer.r, layer.weight.shape[1]), U[:, -layer.r :])
