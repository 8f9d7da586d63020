"""A PEFT layer with a trained matrix between A and B, which LoRA-XS and LoRA-SB need and PEFT does not have.

bench.model.adapter registers it through PEFT's extension point for custom LoRA modules. An adapter of this kind that
PEFT reloads by itself loses lora_R silently: bench.export folds it into B.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float
from peft import LoraConfig
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn


class MiddleLinear(LoraLinear):
    """PEFT's layer, with something done to the outputs of A and to those of B."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """PEFT's own forward pass, with `_middle` after A and `_outer` after B."""
        if self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        result = self.base_layer(x, *args, **kwargs)
        dtype = result.dtype
        for name in self.active_adapters:
            lora_A = _linear(self.lora_A, name)
            dropped = self.lora_dropout[name](self._cast_input_dtype(x, lora_A.weight.dtype))
            inner = self._middle(name, lora_A(dropped))
            result = result + self.scaling[name] * self._outer(name, _linear(self.lora_B, name)(inner))
        return result.to(dtype)

    def _middle(self, name: str, inner: Tensor) -> Tensor:
        """What B is given instead of the outputs (..., r) of A."""
        raise NotImplementedError

    def _outer(self, name: str, outputs: Tensor) -> Tensor:
        """What is added, times s, instead of the outputs (..., out) of B."""
        return outputs


class LoraRLinear(MiddleLinear):
    """`base(x) + s B R A x`, with R (r, r) beside PEFT's A and B."""

    adapter_layer_names = (*MiddleLinear.adapter_layer_names, "lora_R")

    def update_layer(self, adapter_name: str, r: int, lora_alpha: int, config: LoraConfig, **kwargs: Any) -> None:
        """PEFT calls this from __init__ to make the adapter's parts."""
        if not hasattr(self, "lora_R"):
            self.lora_R = nn.ModuleDict()
        self.lora_R[adapter_name] = nn.Linear(r, r, bias=False)
        super().update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config, **kwargs)

    def get_delta_weight(self, adapter: str) -> Float[Tensor, "out in"]:
        """s B R A, which merging adds to the base weight."""
        parts = (_linear(part, adapter).weight for part in (self.lora_B, self.lora_R, self.lora_A))
        return self.scaling[adapter] * torch.linalg.multi_dot(list(parts))

    def _middle(self, name: str, inner: Tensor) -> Tensor:
        found: Tensor = _linear(self.lora_R, name)(inner)
        return found


def _linear(parts: nn.ModuleDict, adapter: str) -> nn.Linear:
    return cast(nn.Linear, parts[adapter])
