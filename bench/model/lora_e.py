"""A PEFT layer with a trained diagonal between A and B, which systems with a gate a rank need.

bench.model.adapter registers it through PEFT's extension point for custom LoRA modules. bench.model.export multiplies
lora_E into B, so that what it writes is a plain LoRA.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float
from peft import LoraConfig
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn


class Gates(nn.Module):
    """E (r,), under the name that PEFT's parts have."""

    def __init__(self, r: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(r))


class LoraELinear(LoraLinear):
    """`base(x) + s B diag(E) A x`, with E (r,) beside PEFT's A and B."""

    adapter_layer_names = (*LoraLinear.adapter_layer_names, "lora_E")

    def update_layer(self, adapter_name: str, r: int, lora_alpha: int, config: LoraConfig, **kwargs: Any) -> None:
        """PEFT calls this from __init__ to make the adapter's parts."""
        if not hasattr(self, "lora_E"):
            self.lora_E = nn.ModuleDict()
        self.lora_E[adapter_name] = Gates(r)
        super().update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config, **kwargs)

    def get_delta_weight(self, adapter: str) -> Float[Tensor, "out in"]:
        """s B diag(E) A, which merging adds to the base weight."""
        A, B, E = (cast(Tensor, part[adapter].weight) for part in (self.lora_A, self.lora_B, self.lora_E))
        return self.scaling[adapter] * (B * E @ A)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """PEFT's own forward pass, with E after A."""
        if self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        result = self.base_layer(x, *args, **kwargs)
        dtype = result.dtype
        for name in self.active_adapters:
            lora_A, E = cast(nn.Linear, self.lora_A[name]), cast(Tensor, self.lora_E[name].weight)
            inner = E * lora_A(self.lora_dropout[name](self._cast_input_dtype(x, lora_A.weight.dtype)))
            result = result + self.scaling[name] * self.lora_B[name](inner)
        return result.to(dtype)
