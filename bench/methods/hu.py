"""LoRA with B = 0, "Init[A]" (Hu et al. 2021, section 4.1, arXiv:2106.09685; Hayou et al. 2024, arXiv:2406.08447).

A is drawn as nn.Linear draws its weight, uniform in ±1/√in, which is what Hu et al.'s code and PEFT's default do. The
paper's text says Gaussian: PEFT's init_lora_weights="gaussian" has standard deviation 1/r, whatever the width.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule


@dataclass(frozen=True, config=STRICT)
class Hu(Method):
    """A random, B zero: the adapted model starts as the pretrained one; at step 0 only B has a gradient."""

    label: ClassVar[str] = "LoRA"
    keeps_function: ClassVar[bool] = True

    scaling: ScalingRule
    distribution: Literal["kaiming_uniform", "gaussian"]

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A uniform in ±1/√in, or normal with standard deviation 1/r; lora_B zero."""
        num_out, num_in = layer.weight.shape
        lora_A = torch.empty(layer.r, num_in)
        if self.distribution == "gaussian":
            torch.nn.init.normal_(lora_A, std=1 / layer.r, generator=generator)
        else:
            torch.nn.init.kaiming_uniform_(lora_A, a=math.sqrt(5), generator=generator)
        return Factors(lora_A, torch.zeros(num_out, layer.r))
