"""GoRA (He et al. 2025, arXiv:2502.12171).

Agrees with the authors' gora.py (https://github.com/hhnqqq/MyTransformers), method "compress" with --gora-scale-by-lr
and importance "union_mean": A Kaiming, B the gradient projected on A's rows, ranks by the mean of |W ⊙ G|. The sign:
summaries of the paper speak of a step of descent, and the code measures its error against -η G, but it multiplies G by
a positive factor, so that its step goes uphill. `sign: descent` is the default, `sign: released` does as the code does.
Departs in one s for all layers (there α/√(own rank); the built-in step does not depend on s), and in stating the
bounds of a rank as multiples of r: the scripts' 4 and 32 at r = 8.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule, Statistic, required

DAMPING = 1e-8  # of A Aᵀ


@dataclass(frozen=True, config=STRICT)
class GoRA(Method):
    """A random, B fitted to the gradient on A's rows; layers get ranks by how much the gradient would move W."""

    label: ClassVar[str] = "GoRA"
    requires: ClassVar[frozenset[Statistic]] = frozenset({"gradient"})
    keeps_function: ClassVar[bool] = False

    scaling: ScalingRule
    eta: PositiveFloat
    sign: Literal["descent", "released"]
    smallest: PositiveFloat  # rank of a layer over r, at least
    largest: PositiveFloat  # and at most

    def ranks(self, layers: Iterable[Layer]) -> dict[str, int]:
        """Each layer's share of the parameters that rank r would cost follows the mean of |W ⊙ G|, within bounds."""
        importances: dict[str, float] = {}
        sides: dict[str, int] = {}
        bounds: dict[str, tuple[int, int]] = {}
        total = 0
        for layer in layers:
            name, shape = layer.name, layer.weight.shape
            importances[name] = (layer.weight * required(layer, "gradient")).abs().mean().item()
            sides[name] = sum(shape)
            total += sides[name] * layer.r
            highest = min(round(self.largest * layer.r), *shape)
            bounds[name] = min(max(1, round(self.smallest * layer.r)), highest), highest
        whole = sum(importances.values()) or 1.0  # no gradient: every layer gets the smallest rank
        ranks = {name: round(total * importance / whole) // sides[name] for name, importance in importances.items()}
        return {name: min(max(rank, bounds[name][0]), bounds[name][1]) for name, rank in ranks.items()}

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A uniform in ±1/√in; s B A = ∓ η √(in/r) G P, with P the projection on A's rows, - for descent."""
        G, r = required(layer, "gradient"), layer.r
        num_in = G.shape[1]
        lora_A = torch.empty(r, num_in)
        torch.nn.init.kaiming_uniform_(lora_A, a=math.sqrt(5), generator=generator)
        lora_A = lora_A.to(G)
        gram = lora_A @ lora_A.T + DAMPING * torch.eye(r, dtype=G.dtype, device=G.device)
        projected = torch.linalg.solve(gram, lora_A @ G.T).T
        length = self.eta * math.sqrt(num_in / r) / layer.scaling
        return Factors(lora_A, projected * (-length if self.sign == "descent" else length))
