"""One factor trained, the other frozen (Zhu et al. 2024, arXiv:2402.16842).

The paper's B̂₀A_rand trains B over a random A, its counterpart trains A over a random B. Agrees with the authors' code
in orthonormal vectors of length 1 and in the Kaiming alternative. Departs in "singular_vectors": theirs takes columns
of Vh where the right singular vectors are its rows, and in use decomposes a fresh random matrix, not the pretrained W.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule, Spectral, Trainable

FrozenFactor = Literal["random_orthonormal", "kaiming", "singular_vectors"]


def _decomposed(frozen: FrozenFactor) -> frozenset[Spectral]:
    return frozenset({"weight"} if frozen == "singular_vectors" else ())


def _orthonormal_columns(rows: int, columns: int, generator: torch.Generator) -> Float[Tensor, "rows columns"]:
    Q, R = torch.linalg.qr(torch.randn(rows, columns, generator=generator))
    return Q * R.diagonal().sign()  # without the signs Q would not be uniform (Mezzadri 2007, section 5)


@dataclass(frozen=True, config=STRICT)
class AsymmetryB(Method):
    """A frozen, B zero and trained."""

    label: ClassVar[str] = "B only"
    trains: ClassVar[frozenset[Trainable]] = frozenset({"lora_B"})
    keeps_function: ClassVar[bool] = True

    scaling: ScalingRule
    frozen: FrozenFactor

    @property
    def decomposes(self) -> frozenset[Spectral]:
        """W, where its singular vectors are asked for."""
        return _decomposed(self.frozen)

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A r orthonormal rows, or uniform in ±1/√in, or the first r right singular vectors of W."""
        num_out, num_in = layer.weight.shape
        if self.frozen == "random_orthonormal":
            lora_A = _orthonormal_columns(num_in, layer.r, generator).T
        elif self.frozen == "kaiming":
            lora_A = torch.empty(layer.r, num_in)
            torch.nn.init.kaiming_uniform_(lora_A, a=math.sqrt(5), generator=generator)
        else:
            lora_A = layer.leading("weight", layer.r).Vh
        return Factors(lora_A, torch.zeros(num_out, layer.r))


@dataclass(frozen=True, config=STRICT)
class AsymmetryA(Method):
    """B frozen, A zero and trained."""

    label: ClassVar[str] = "A only"
    trains: ClassVar[frozenset[Trainable]] = frozenset({"lora_A"})
    keeps_function: ClassVar[bool] = True

    scaling: ScalingRule
    frozen: FrozenFactor

    @property
    def decomposes(self) -> frozenset[Spectral]:
        """W, where its singular vectors are asked for."""
        return _decomposed(self.frozen)

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_B r orthonormal columns, or uniform in ±1/√r, or the first r left singular vectors of W."""
        num_out, num_in = layer.weight.shape
        if self.frozen == "random_orthonormal":
            lora_B = _orthonormal_columns(num_out, layer.r, generator)
        elif self.frozen == "kaiming":
            lora_B = torch.empty(num_out, layer.r)
            torch.nn.init.kaiming_uniform_(lora_B, a=math.sqrt(5), generator=generator)
        else:
            lora_B = layer.leading("weight", layer.r).U
        return Factors(torch.zeros(layer.r, num_in), lora_B)
