"""EVA (Paischer et al. 2024, arXiv:2410.07170).

Agrees with PEFT's init_lora_weights="eva", the authors' code, in what it converges to: principal components of the
layer's inputs at the tokens that are learned, ranks given out by explained variance, s the same for every layer.
Departs in decomposing the covariance of the calibration samples exactly, where theirs updates an incremental,
randomised SVD until cosines between updates exceed τ = 0.99.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule, Statistic, required


def _principal(layer: Layer) -> tuple[Float[Tensor, "in"], Float[Tensor, "in in"]]:
    """Shares of the variance of the layer's inputs, largest first, and the components as rows."""
    variances, vectors = torch.linalg.eigh(required(layer, "label_covariance").double())
    components = vectors.flip(1).T
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    total = variances.sum().clamp(min=torch.finfo(variances.dtype).tiny)  # no input varies: no share of it either
    return variances.flip(0).clamp(min=0) / total, components * largest.sign()


@dataclass(frozen=True, config=STRICT)
class EVA(Method):
    """A holds the principal components of the layer's inputs, B is zero; layers get ranks by explained variance."""

    label: ClassVar[str] = "EVA"
    requires: ClassVar[frozenset[Statistic]] = frozenset({"label_covariance"})
    keeps_function: ClassVar[bool] = True

    scaling: ScalingRule
    rho: Annotated[float, Field(ge=1.0)]  # a layer gets at most rho r; 1 gives every layer r

    def ranks(self, layers: Iterable[Layer]) -> dict[str, int]:
        """The budget of r a layer goes to the components that explain most of their layer's variance."""
        names: list[str] = []
        shares: list[Tensor] = []
        budget = 0
        for layer in layers:
            found = _principal(layer)[0][: min(round(self.rho * layer.r), *layer.weight.shape)]
            names += [layer.name] * len(found)
            shares.append(found)
            budget += layer.r
        chosen = torch.cat(shares).argsort(descending=True, stable=True)[:budget].tolist()
        ranks = dict.fromkeys(names, 0)
        for index in chosen:
            ranks[names[index]] += 1
        return ranks

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A the first r components, orthonormal rows; lora_B zero."""
        components = _principal(layer)[1][: layer.r]
        return Factors(components.float(), torch.zeros(layer.weight.shape[0], layer.r))
