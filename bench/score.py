"""Scoring through lm-eval, in process: a score with its standard error per task, metric and filter, and every item."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass as plain_dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass

from bench.model import evaluating
from bench.tasks import ScoreSplit

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bench.tasks.definition import InMemoryTask

# Draws for the standard error of metrics without a closed form (MCC, F1); lm-eval's default of 100,000 takes minutes.
BOOTSTRAP_DRAWS = 200


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Scoring:
    """The `score` key of the configuration.

    Attributes:
        split: test, or selection for choosing a learning rate.
        limit: score the first so many items of each task only; None for all.
        batch_size: prompts at a time; fixed, because it can move scores.
    """

    split: ScoreSplit
    limit: PositiveInt | None
    batch_size: PositiveInt


@plain_dataclass(frozen=True)
class Score:
    """One number. `metric` carries lm-eval's filter, as in "exact_match,strict-match"; stderr None if unknown."""

    task: str
    metric: str
    value: float
    stderr: float | None
    num_examples: int


@plain_dataclass(frozen=True)
class Outcome:
    """One item under one filter: what was asked (by hash), wanted and answered, and the metrics' values for it."""

    task: str
    filter: str
    doc_id: int
    doc_hash: str
    target: str
    response: str
    metrics: dict[str, Any]


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    evaluations: Mapping[str, InMemoryTask],
    settings: Scoring,
) -> tuple[list[Score], list[Outcome]]:
    """Scores a model; leaves it in the mode it was in, and the global random streams as they were.

    Decoding is greedy by the task definitions' explicit do_sample=False; prompts are padded on the left with an
    attention mask; no request cache is used.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    from bench import rng
    from bench.tasks.examples import adds_bos

    with rng.preserved(), evaluating(model), _cached(model), _quiet():
        lm = HFLM(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=settings.batch_size,
            max_length=model.config.max_position_embeddings,
            add_bos_token=adds_bos(tokenizer),
        )
        results = lm_eval.evaluate(
            lm=lm,
            task_dict={"tasks": dict(evaluations), "groups": {}, "group_map": {}},
            limit=settings.limit,
            bootstrap_iters=BOOTSTRAP_DRAWS,
            log_samples=True,
        )
    return _scores(results), _outcomes(results)


@contextmanager
def _cached(model: PreTrainedModel) -> Iterator[None]:
    cached = model.config.use_cache
    model.config.use_cache = True  # the Trainer turns the key-value cache off
    try:
        yield
    finally:
        model.config.use_cache = cached


@contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's remarks on settings that are meant as they are, and without a forked bootstrap."""
    logger = logging.getLogger("lm_eval")
    level, forked = logger.level, os.environ.get("DISABLE_MULTIPROC")
    logger.setLevel(logging.ERROR)
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        yield
    finally:
        logger.setLevel(level)
        if forked is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = forked


def _scores(results: dict[str, Any]) -> list[Score]:
    found = []
    for task, values in results["results"].items():
        for key, value in values.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            stderr = values.get(f"{metric}_stderr,{filtered}")
            found.append(
                Score(
                    task=task,
                    metric=metric if filtered == "none" else key,
                    value=float(value),
                    stderr=float(stderr) if isinstance(stderr, float | int) else None,  # lm-eval says 'N/A'
                    num_examples=int(results["n-samples"][task]["effective"]),
                )
            )
    return found


def _outcomes(results: dict[str, Any]) -> list[Outcome]:
    found = []
    for task, samples in results["samples"].items():
        for sample in samples:
            response = sample["filtered_resps"]
            found.append(
                Outcome(
                    task=task,
                    filter=sample["filter"],
                    doc_id=int(sample["doc_id"]),
                    doc_hash=sample["doc_hash"],
                    target=str(sample["target"]),
                    response=str(response[0] if len(response) == 1 else response),
                    metrics={metric: sample[metric] for metric in sample["metrics"]},
                )
            )
    return found
