"""Ways to the mean gradient of every target weight; each function is called in a process of its own."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedModel

import floors
import ours
import peers
from accuracy import LORA_GA, subspace_errors
from cost import Cost, measured
from shape import LLAMA_TINY, Shape

T = TypeVar("T")


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


def floor_activations(shape: Shape, num_samples: int) -> GradientCost:
    """Forward and backward through activations only."""
    cost, parts = _timed(floors.activations, shape, num_samples)
    return GradientCost(cost, parts)


def floor_gradient(shape: Shape, num_samples: int) -> GradientCost:
    """The same, with every target weight's gradient formed and freed."""
    cost, parts = _timed(floors.gradient, shape, num_samples)
    return GradientCost(cost, parts)


def peft(shape: Shape, num_samples: int) -> GradientCost:
    """PEFT's preprocess_loraga."""
    cost, _ = _timed(peers.lora_ga_gradient, shape, num_samples)
    return GradientCost(cost)


def ours_exact(shape: Shape, num_samples: int) -> GradientCost:
    """The suite's exact gradient."""
    cost, found = _timed(ours.exact, shape, num_samples)
    return GradientCost(cost, found.parts)


def ours_sketch(shape: Shape, num_samples: int, reference: Path, r: int) -> GradientCost:
    """The suite's sketch of the gradient, and how far LoRA-GA's factors from it are from the exact ones."""
    cost, found = _timed(ours.sketch, shape, num_samples)
    spans = ours.spans(ours.calibrated_factors(found, shape.model(), r))
    errors = subspace_errors(spans, reference, LORA_GA, r)
    return GradientCost(cost, found.parts, errors, len(found.calibration.facts.exact_layers))


def ours_cached(shape: Shape, num_samples: int) -> dict[str, GradientCost]:
    """The call that fills an empty cache, and the same call on a new model, served from it."""
    with tempfile.TemporaryDirectory() as small, tempfile.TemporaryDirectory() as folder:
        _warm_up(functools.partial(ours.cached, folder=Path(small)))
        costs = {}
        for call in ("filling", "served"):
            cost, found = _once(functools.partial(ours.cached, folder=Path(folder)), shape, num_samples)
            costs[call] = GradientCost(cost, found.parts)
    return costs


def _timed(run: Callable[[PreTrainedModel, Any], T], shape: Shape, num_samples: int) -> tuple[Cost, T]:
    """Cost and outcome of `run(model, batches)`, after a small call of it."""
    _warm_up(run)
    return _once(run, shape, num_samples)


def _once(run: Callable[[PreTrainedModel, Any], T], shape: Shape, num_samples: int) -> tuple[Cost, T]:
    model, batches = shape.model(), shape.batches(num_samples)
    with measured() as cost:
        outcome = run(model, batches)
    return cost, outcome


def _warm_up(run: Callable[[PreTrainedModel, Any], Any]) -> None:
    """The first call of a process pays for libraries that start lazily."""
    run(LLAMA_TINY.model(), LLAMA_TINY.batches(8))
