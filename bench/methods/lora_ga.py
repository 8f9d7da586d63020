"""LoRA-GA (Wang, Yu and Li 2024, Algorithm 1, arXiv:2407.05000).

Agrees with the authors' code: direction ArB2r, scale "stable", both factors scaled, singular values unused,
s = α/√r. Departs in taking an exact SVD where the code takes torch.svd_lowrank(q=4r, niter=4), and in canonical
signs. PEFT's init_lora_weights="lora_ga" is another method: it scales B by the gradient's singular values.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass

from bench.methods.base import (
    STRICT,
    Factors,
    Layer,
    ScalingRule,
    Statistic,
    Trainable,
    required_gradient,
    signed_svd,
)


@dataclass(frozen=True, config=STRICT)
class LoRAGA:
    """A from the first r right, B from the next r left singular vectors of the gradient; the base gives way to BA.

    The first step of gradient descent then moves W along the best rank-2r approximation of the gradient.
    """

    label: ClassVar[str] = "LoRA-GA"
    requires: ClassVar[frozenset[Statistic]] = frozenset({"gradient"})
    trains: ClassVar[frozenset[Trainable]] = frozenset({"lora_A", "lora_B"})
    keeps_function: ClassVar[bool] = True

    scaling: ScalingRule = "alpha_over_sqrt_r"
    gamma: PositiveFloat = 16.0  # the authors' conf/init/gradient.yaml; their README's command says 64

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A = out^¼/√γ · V[:r]ᵀ, lora_B = out^¼/√γ · U[r:2r].

        Raises:
            ValueError: 2r exceeds the layer's smaller side, so that there are no vectors r+1..2r.
        """
        gradient, r = required_gradient(layer), layer.r
        num_out, smaller = gradient.shape[0], min(gradient.shape)
        if 2 * r > smaller:
            raise ValueError(
                f"LoRA-GA uses 2r = {2 * r} singular vectors, but {layer.name} has a side of {smaller}; "
                f"take r of at most {smaller // 2}"
            )
        U, _, Vh = signed_svd(gradient)
        scale = num_out**0.25 / self.gamma**0.5
        return Factors(scale * Vh[:r], scale * U[:, r : 2 * r])
