"""PEFT layers with trained vectors around A and B: a diagonal between them, and one behind B.

bench.model.adapter registers them through PEFT's extension point for custom LoRA modules. bench.model.export multiplies
the vectors into B, so that what it writes is a plain LoRA.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float
from peft import LoraConfig
from torch import Tensor, nn

from bench.model.lora_r import MiddleLinear


class Gates(nn.Module):
    """A vector, under the name that PEFT's parts have."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))


class LoraELinear(MiddleLinear):
    """`base(x) + s B diag(E) A x`, with E (r,) beside PEFT's A and B."""

    adapter_layer_names = (*MiddleLinear.adapter_layer_names, "lora_E")

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

    def _middle(self, name: str, inner: Tensor) -> Tensor:
        return cast(Tensor, self.lora_E[name].weight) * inner


class LoraEOLinear(LoraELinear):
    """`base(x) + s diag(o) B diag(E) A x`, with o (out,) beside E."""

    adapter_layer_names = (*LoraELinear.adapter_layer_names, "lora_o")

    def update_layer(self, adapter_name: str, r: int, lora_alpha: int, config: LoraConfig, **kwargs: Any) -> None:
        """PEFT calls this from __init__ to make the adapter's parts."""
        if not hasattr(self, "lora_o"):
            self.lora_o = nn.ModuleDict()
        self.lora_o[adapter_name] = Gates(cast(int, self.out_features))
        super().update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config, **kwargs)

    def get_delta_weight(self, adapter: str) -> Float[Tensor, "out in"]:
        """s diag(o) B diag(E) A, which merging adds to the base weight."""
        return cast(Tensor, self.lora_o[adapter].weight)[:, None] * super().get_delta_weight(adapter)

    def _outer(self, name: str, outputs: Tensor) -> Tensor:
        return cast(Tensor, self.lora_o[name].weight) * outputs
