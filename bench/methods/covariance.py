"""Eigenvectors of a covariance that calibration has computed, checked for what a small sample cannot say."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from bench.methods.base import Layer, Statistic, required


def reached(layer: Layer, statistic: Statistic) -> Tensor:
    """A statistic that is not zero.

    Raises:
        ValueError: it is: no calibration sample reaches the layer.
    """
    value = required(layer, statistic)
    if not value.any():
        raise ValueError(
            f"the {statistic} of {layer.name} is zero, as no calibration sample reaches it; raise "
            "task.calibration_samples, or take the layer out of model.target_modules"
        )
    return value


def eigenvectors(layer: Layer, statistic: Statistic, *, smallest: bool = False) -> Float[Tensor, "side side"]:
    """Orthonormal columns, float64, by eigenvalue, largest first, or smallest first.

    The entry of largest magnitude in each is positive. Where more than r eigenvalues vanish, the smallest r directions
    are arbitrary within the null space; a warning names both numbers.

    Args:
        layer: with its covariance.
        statistic: which covariance, (side, side).
        smallest: order by ascending eigenvalue.

    Raises:
        ValueError: the covariance is zero.
    """
    covariance = reached(layer, statistic)
    precision = torch.finfo(covariance.dtype).eps
    values, vectors = torch.linalg.eigh(covariance.double())
    num_zero = int((values <= len(values) * precision * values[-1]).sum())
    if smallest and num_zero > layer.r:
        warnings.warn(
            f"the {statistic} of {layer.name} has rank {len(values) - num_zero} of {len(values)}, from fewer tokens "
            f"than directions: which r = {layer.r} of its {num_zero} null directions are taken is arbitrary; raise "
            "task.calibration_samples",
            stacklevel=2,
        )
    ordered = vectors if smallest else vectors.flip(1)
    largest = ordered.gather(0, ordered.abs().argmax(dim=0, keepdim=True))
    return ordered * largest.sign()
