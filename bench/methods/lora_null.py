"""LoRA-Null (AAAI 2026, arXiv:2503.02659): an adapter that hardly sees the inputs of the calibration samples.

Agrees with the authors' decompose_to_adapter2 (https://github.com/HungerPWAY/LoRA-Null, --singular_aware), whose sum
over samples differs from our mean by a factor that changes no direction. s = 1: their adapter has none. `start: zero`
is their singular_aware_2, and LoRANullFrozen their version 2.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule, Statistic, Trainable, exact_svd
from bench.methods.covariance import eigenvectors

COVARIANCE: Statistic = "input_covariance"


def _null_directions(layer: Layer) -> Float[Tensor, "in r"]:
    return eigenvectors(layer, COVARIANCE, smallest=True)[:, : layer.r]


def _projected(layer: Layer) -> Factors:
    """lora_A = √(Σ/s) Vᵀ, lora_B = U √(Σ/s) of W N Nᵀ = U Σ Vᵀ, N the r directions in which inputs are smallest."""
    N = _null_directions(layer).to(layer.weight.dtype)
    svd = exact_svd(layer.weight @ N)  # N is orthonormal: the right vectors of W N Nᵀ are N times those of W N
    root = (svd.S / layer.scaling).sqrt()
    return Factors(root[:, None] * (svd.Vh @ N.T), svd.U * root)


@dataclass(frozen=True, config=STRICT)
class LoRANull(Method):
    """A and B share what W does in the r directions in which the layer's inputs are smallest; both are trained."""

    label: ClassVar[str] = "LoRA-Null"
    requires: ClassVar[frozenset[Statistic]] = frozenset({COVARIANCE})
    keeps_function: ClassVar[bool] = True

    scaling: ScalingRule
    start: Literal["projected", "zero"]

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """s B A = W N Nᵀ, N the r directions of the smallest inputs; or lora_A = Nᵀ and lora_B zero."""
        if self.start == "projected":
            return _projected(layer)
        N = _null_directions(layer)
        return Factors(N.T, N.new_zeros(layer.weight.shape[0], layer.r))


@dataclass(frozen=True, config=STRICT)
class LoRANullFrozen(Method):
    """LoRA-Null with A frozen: the adapter never sees more of the calibration inputs than at the start."""

    label: ClassVar[str] = "LoRA-Null v2"
    requires: ClassVar[frozenset[Statistic]] = frozenset({COVARIANCE})
    trains: ClassVar[frozenset[Trainable]] = frozenset({"lora_B"})
    keeps_function: ClassVar[bool] = True

    scaling: ScalingRule

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """s B A = W N Nᵀ, N the r directions of the smallest inputs."""
        return _projected(layer)
