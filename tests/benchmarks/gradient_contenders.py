"""Ways to the mean gradient of every target weight; each is measured in a process of its own."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import floors
import ours
import peers
from cost import Cost, measured
from factor_contenders import LORA_GA, subspace_errors
from shape import LLAMA_TINY, Shape

CONTENDERS: dict[str, Callable[..., Any]] = {
    "floor_activations": floors.activations,
    "floor_gradient": floors.gradient,
    "PEFT": peers.lora_ga_gradient,
    "ours exact": ours.exact,
    "ours sketch": ours.sketch,
}


@dataclass(frozen=True)
class GradientCost:
    """What one contender took.

    Attributes:
        parts: seconds inside `cost.seconds`, by name.
        errors: of LoRA-GA's factors from it, a sine a layer; empty where it is exact.
        num_formed: of a sketch, layers whose gradient was formed because the sketch of it was too rough.
    """

    cost: Cost
    parts: dict[str, float] = field(default_factory=dict)
    errors: list[float] = field(default_factory=list)
    num_formed: int = 0

    @property
    def gradient_seconds(self) -> float:
        """Without factorisations and the cache."""
        return self.cost.seconds - self.parts.get("svd", 0.0) - self.parts.get("cache", 0.0)


def measure(contender: str, shape: Shape, num_samples: int, reference: Path, r: int) -> GradientCost:
    """What a contender takes after a small call of it, and how far a sketch's factors are from the exact ones.

    Args:
        contender: a name in CONTENDERS.
        shape: of the model.
        num_samples: of calibration.
        reference: file of the exact singular vectors.
        r: of the LoRA-GA whose factors a sketch is judged by.
    """
    run = CONTENDERS[contender]
    _warm_up(run)
    cost, found = _timed(run, shape, num_samples)
    if not isinstance(found, ours.Calibrated):
        return GradientCost(cost, found or {})
    if contender != "ours sketch":
        return GradientCost(cost, found.parts)
    spans = ours.spans(ours.calibrated_factors(found, shape.model(), r))
    errors = subspace_errors(spans, reference, LORA_GA, r)
    return GradientCost(cost, found.parts, errors, len(found.calibration.facts.exact_layers))


def measure_cached(shape: Shape, num_samples: int) -> dict[str, GradientCost]:
    """The call that fills an empty cache, and the same call on a new model, served from it."""
    costs = {}
    with tempfile.TemporaryDirectory() as small, tempfile.TemporaryDirectory() as folder:
        _warm_up(functools.partial(ours.cached, folder=Path(small)))
        for call in ("filling", "served"):
            cost, found = _timed(functools.partial(ours.cached, folder=Path(folder)), shape, num_samples)
            costs[call] = GradientCost(cost, found.parts)
    return costs


def _timed(run: Callable[..., Any], shape: Shape, num_samples: int) -> tuple[Cost, Any]:
    model, batches = shape.model(), shape.batches(num_samples)
    with measured() as cost:
        outcome = run(model, batches)
    return cost, outcome


def _warm_up(run: Callable[..., Any]) -> None:
    """The first call of a process pays for libraries that start lazily."""
    run(LLAMA_TINY.model(), LLAMA_TINY.batches(8))
