"""Checks that the model with merged adapters, which users deploy, answers like the one that was scored."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from bench.model.kinds import CLASSIFIERS
from bench.score.rows import outcomes
from bench.score.stage import evaluate

if TYPE_CHECKING:
    from torch import nn

    from bench.model.load import LoadedModel
    from bench.score.settings import Scored, Scoring
    from bench.tasks.definition import InMemoryTask

# Likelihoods and regressions are never equal to the last digit. Merging rounds a weight once, by 2^-9 in bfloat16.
TOLERANCE = 0.01


def check_merged(
    loaded: LoadedModel, evaluations: Mapping[str, InMemoryTask], settings: Scoring, scored: Scored
) -> dict[str, int] | None:
    """Merges the adapters, scores the first items of each task again, and warns of answers that have changed.

    The adapters are merged in place, into the base weights: save the weights before. An item
    differs if its generated text, its likeliest choice or the value of a metric does; a likelihood or a regression may
    move by TOLERANCE of itself.

    Args:
        loaded: a trained model, with or without adapters.
        evaluations: lm-eval tasks by name.
        settings: `merged_samples` is the number of items of each task.
        scored: what `score` returned for the same model, unmerged.

    Returns:
        num_items and num_differing; None without an adapter, with merged_samples=0 or only_loss, or if vLLM has scored
        the merged weights already.
    """
    from peft.tuners.lora.layer import LoraLayer

    adapters = [module for module in cast("nn.Module", loaded.model).modules() if isinstance(module, LoraLayer)]
    if not adapters or not settings.merged_samples or settings.only_loss or settings.backend == "vllm":
        return None
    for adapter in adapters:
        cast(Any, adapter).merge()
    limit = min(settings.merged_samples, settings.limit or settings.merged_samples)
    fitting = replace(settings, batch_tokens=scored.facts.batch_tokens or settings.batch_tokens)
    results, _ = evaluate(loaded, evaluations, fitting, limit, scored.facts.batch_size or 1, bootstrap_draws=0)
    unmerged = {(outcome.task, outcome.filter, outcome.doc_id): outcome for outcome in scored.outcomes}
    items, differing = set(), set()
    for outcome in outcomes(results, evaluations):
        generates = loaded.kind not in CLASSIFIERS and evaluations[outcome.task].OUTPUT_TYPE == "generate_until"
        items.add((outcome.task, outcome.doc_id))
        before = unmerged[outcome.task, outcome.filter, outcome.doc_id]
        same = before.choice == outcome.choice and _equal(before.metrics, outcome.metrics)
        if not same or (generates and before.response != outcome.response):
            differing.add((outcome.task, outcome.doc_id))
    if differing:
        warnings.warn(
            f"{len(differing)} of {len(items)} items are answered otherwise once the adapters are merged into the "
            f"{loaded.model.dtype} weights: merging rounds them, or goes wrong",
            stacklevel=2,
        )
    return {"num_items": len(items), "num_differing": len(differing)}


def _equal(one: Any, other: Any) -> bool:
    """Values of metrics: numbers that are no integers up to TOLERANCE, everything else exactly."""
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple | np.ndarray):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, Real) and isinstance(other, Real) and not isinstance(one, Integral):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(one == other)
