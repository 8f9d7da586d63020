"""GeLoRA (Ed-dib et al. 2024, arXiv:2412.09250): LoRA whose ranks follow the intrinsic dimensions of hidden states.

No authors' code was found, and of the paper the rule of ranks was read in one secondary note only. The paper's are the
dimension by two nearest neighbours and r = max(d after - d before, 0) + 1 for a block. Chosen here, for want of it: a
sample is the mean of its tokens, dimensions are rounded to the nearest integer, every target layer of a block gets the
block's rank and layers outside blocks 1, and s is that of the run's rank for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule, Statistic, required


@dataclass(frozen=True, config=STRICT)
class GeLoRA(Method):
    """A random, B zero; a block's layers get as many ranks as its hidden states gain dimensions, and one more."""

    label: ClassVar[str] = "GeLoRA"
    requires: ClassVar[frozenset[Statistic]] = frozenset({"block_dimensions"})
    keeps_function: ClassVar[bool] = True

    scaling: ScalingRule

    def ranks(self, layers: Iterable[Layer]) -> dict[str, int]:
        """r = max(d after - d before, 0) + 1, at most the layer's smaller side; the run's rank is not looked at."""
        found = {}
        for layer in layers:
            before, after = (math.floor(d + 0.5) for d in required(layer, "block_dimensions").tolist())
            found[layer.name] = min(max(after - before, 0) + 1, *layer.weight.shape)
        return found

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A uniform in ±1/√in, lora_B zero."""
        num_out, num_in = layer.weight.shape
        lora_A = torch.empty(layer.r, num_in)
        torch.nn.init.kaiming_uniform_(lora_A, a=math.sqrt(5), generator=generator)
        return Factors(lora_A, torch.zeros(num_out, layer.r))
