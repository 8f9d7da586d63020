"""MoSLoRA (Wu et al. 2024, arXiv:2406.11909), whose start is that of NLoRA's "SLoRA" (arXiv:2502.14482).

Agrees with slora_init of NLoRA's code (https://github.com/TracyGuo2001/NLoRA) and with LoRAFactory's mos_lora.py, in
the order of its draws with the former. MoSLoRA's own code has not been read.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule, Trainable


@dataclass(frozen=True, config=STRICT)
class MoSLoRA(Method):
    """A and the mixer R random, B zero: at step 0 only B has a gradient; all three are trained."""

    label: ClassVar[str] = "MoSLoRA"
    trains: ClassVar[frozenset[Trainable]] = frozenset({"lora_A", "lora_B", "lora_R"})
    keeps_function: ClassVar[bool] = True

    scaling: ScalingRule

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A uniform in ±1/√in, lora_B zero, lora_R uniform in ±1/√r."""
        r, (num_out, num_in) = layer.r, layer.weight.shape
        lora_A, lora_R = torch.empty(r, num_in), torch.empty(r, r)
        for part in (lora_A, lora_R):
            torch.nn.init.kaiming_uniform_(part, a=math.sqrt(5), generator=generator)
        return Factors(lora_A, torch.zeros(num_out, r), lora_R)
