"""The first of k full steps (LoRAFactory's "LoRA-DA", https://github.com/hhnqqq/MyTransformers, no paper).

LoRAFactory trains the target weights for k steps of AdaLomo, restores them, and starts from the change D. Here k = 1,
its default, from the mean gradient of the calibration batches instead of one batch's. It is another method than
LoRA-DA (lora_da). Departs in the solver of the SVD (the code takes torch.svd_lowrank(q=r, niter=4)). W is not shifted,
so that the adapted model differs from the pretrained one at step 0 on purpose, by s times the best rank-r part of D.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule, Statistic, exact_svd
from bench.methods.covariance import reached

SMALLEST_SQUARE = 1e-30  # LoRAFactory's adalomo.py, eps
SMALLEST_RMS = 1e-3
LARGEST_UPDATE = 1.0  # clip_threshold


def _rms(matrix: Tensor) -> Tensor:
    return matrix.square().mean().sqrt()


def adalomo_step(W: Float[Tensor, "out in"], G: Float[Tensor, "out in"], eta: float) -> Float[Tensor, "out in"]:
    """The change of W by the first step of AdaLomo (Lv et al. 2023, arXiv:2310.10195), at learning rate eta.

    G is divided by the root of its factored second moment, clipped to a root mean square of 1, and multiplied by the
    root mean square of W.
    """
    squares = G.square() + SMALLEST_SQUARE
    rows, columns = squares.mean(dim=1), squares.mean(dim=0)
    update = G * (rows.mean() / rows).sqrt()[:, None] / columns.sqrt()
    update = update / (_rms(update) / LARGEST_UPDATE).clamp(min=1.0)
    return -eta * _rms(W).clamp(min=SMALLEST_RMS) * update


@dataclass(frozen=True, config=STRICT)
class KStep(Method):
    """A and B share the best rank-r approximation of one full step of AdaLomo; both are trained."""

    label: ClassVar[str] = "k-step update"
    requires: ClassVar[frozenset[Statistic]] = frozenset({"gradient"})
    keeps_function: ClassVar[bool] = False

    scaling: ScalingRule
    eta: PositiveFloat

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """lora_A = √Σ_r V_rᵀ, lora_B = U_r √Σ_r, of the step."""
        svd = exact_svd(adalomo_step(layer.weight, reached(layer, "gradient"), self.eta)).leading(layer.r)
        root = svd.S.sqrt()
        return Factors(root[:, None] * svd.Vh, svd.U * root)
