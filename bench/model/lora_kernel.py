"""A PEFT layer that computes its products in training by a function of matrices, as a system has it.

In evaluation, merged or disabled, and without gradients, it is PEFT's own. bench.model.adapter registers it through
PEFT's extension point for custom LoRA modules.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from bench.systems.base import System


class KernelLinear(LoraLinear):
    """`W x + s B A x` by `system.kernel`; `system` is set by whoever adds the layer."""

    system: System

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The kernel in training, PEFT's forward pass elsewhere."""
        if self.disable_adapters or self.merged or not (self.training and torch.is_grad_enabled()):
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        base = cast(nn.Linear, self.get_base_layer())
        A, B = (cast(Tensor, part[name].weight) for part in (self.lora_A, self.lora_B))
        found = self.system.kernel(x, base.weight, A, B, self.scaling[name])
        return found if base.bias is None else found + base.bias
