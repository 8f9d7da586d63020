"""LoRA with A = 0, "Init[B]" (Hayou, Ghosh and Yu 2024, section 3, arXiv:2406.08447)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule


@dataclass(frozen=True, config=STRICT)
class Reversed(Method):
    """B random, A zero: the adapted model starts as the pretrained one; at step 0 only A has a gradient."""

    label: ClassVar[str] = "LoRA Init[B]"
    keeps_function: ClassVar[bool] = True

    scaling: ScalingRule

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A zero, lora_B uniform in ±1/√r: its fan-in is the rank, not the width."""
        num_out, num_in = layer.weight.shape
        lora_B = torch.empty(num_out, layer.r)
        torch.nn.init.kaiming_uniform_(lora_B, a=math.sqrt(5), generator=generator)
        return Factors(torch.zeros(layer.r, num_in), lora_B)
