"""Astra (ACL 2026 Findings, arXiv:2602.19111): an adapter on principal directions of the layer's outputs.

Agrees with the authors' astra.py (https://github.com/LyoAI/Astra): outputs of each sample, biases included, divided by
the magnitude of their largest entry; without its optional ranks by effective rank. The name speaks of tail directions,
but the code's default, "ipm", takes those of the largest eigenvalues; "kpm" takes the smallest.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule, Statistic
from bench.methods.covariance import eigenvectors


@dataclass(frozen=True, config=STRICT)
class Astra(Method):
    """B holds r directions of the layer's outputs, A what W sends there; both are trained, the base gives way to BA."""

    label: ClassVar[str] = "Astra"
    requires: ClassVar[frozenset[Statistic]] = frozenset({"output_covariance"})
    keeps_function: ClassVar[bool] = True

    scaling: ScalingRule
    mode: Literal["ipm", "kpm", "middle"]

    def check(self, layer: Layer) -> None:
        """Refuses a rank for which the outputs have no r directions past the middle."""
        num_out = layer.weight.shape[0]
        if self.mode == "middle" and 2 * layer.r > num_out + num_out % 2:
            raise ValueError(
                f"{self.label} takes r = {layer.r} directions from the middle of {num_out} on, which {layer.name} does "
                f"not have; take r of at most {(num_out + 1) // 2}, or method.mode=ipm"
            )

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A = Vᵀ W, lora_B = V; V the r eigenvectors of the outputs' covariance that `mode` names."""
        num_out, r = layer.weight.shape[0], layer.r
        first = (num_out + 1) // 2 - r if self.mode == "middle" else 0  # the code's k//2 to k//2 + r, ascending
        vectors = eigenvectors(layer, "output_covariance", smallest=self.mode == "kpm")
        V = vectors[:, first : first + r].to(layer.weight.dtype)
        return Factors(V.T @ layer.weight, V)
