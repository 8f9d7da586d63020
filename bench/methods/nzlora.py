"""NZLoRA, "Init[AB]" (Non-zero initialisation, ICML 2025, arXiv:2505.23194).

Agrees with init_AB_util.py of yuang-lee/lr-matters-lora, mode AB_1_1_RESET: both bounds use the width of the input, and
W gives way to s B A. The authors' own code has not been read. Departs from LoRAFactory's nzlora.py, which takes the
square root of the bounds' factor; at the default of 1 the two are the same.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule


@dataclass(frozen=True, config=STRICT)
class NZLoRA(Method):
    """A and B random, neither zero: at step 0 both have a gradient; the base gives way to BA."""

    label: ClassVar[str] = "NZLoRA"
    keeps_function: ClassVar[bool] = True

    scaling: ScalingRule
    scale_A: PositiveFloat
    scale_B: PositiveFloat

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A uniform in ± scale_A/√in, lora_B uniform in ± scale_B/√in."""
        num_out, num_in = layer.weight.shape
        of_A, of_B = (scale / num_in**0.5 for scale in (self.scale_A, self.scale_B))
        lora_A = torch.empty(layer.r, num_in).uniform_(-of_A, of_A, generator=generator)
        lora_B = torch.empty(num_out, layer.r).uniform_(-of_B, of_B, generator=generator)
        return Factors(lora_A, lora_B)
