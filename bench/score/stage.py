"""Scoring a model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from bench.model.limits import max_tokens
from bench.model.load import evaluating
from bench.score.backends import language_model, plain_generation_config
from bench.score.guard import check, count_truncated, warn_truncated
from bench.score.rows import outcomes, scores
from bench.score.settings import Scored, Scoring

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bench.model.load import Kind
    from bench.tasks.definition import InMemoryTask

# Draws for the standard error of metrics without a closed form (MCC, F1); lm-eval's default of 100,000 takes minutes.
BOOTSTRAP_DRAWS = 200


@dataclass(frozen=True)
class Evaluated:
    """What lm-eval returned, at the batch size that fitted, and how many items of each task were cut."""

    results: dict[str, Any]
    batch_size: int
    truncated: dict[str, int]


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    kind: Kind,
    evaluations: Mapping[str, InMemoryTask],
    settings: Scoring,
) -> Scored:
    """Scores a model; leaves it in the mode it was in, and the global random streams as they were.

    Decoding is greedy: what the model's own generation_config says of sampling, beams and penalties is put aside, and
    the task definitions say do_sample=False. A causal model's prompts are padded on the left, an encoder's on the
    right, with an attention mask; no request cache is used.

    Args:
        model: possibly a PeftModel.
        kind: of the model.
        evaluations: lm-eval tasks by name.

    Raises:
        ValueError: as `check`.
    """
    check(model, tokenizer, kind, evaluations, settings)
    found = evaluate(model, tokenizer, kind, evaluations, settings, settings.limit, settings.batch_size)
    num_items = {task: int(number["effective"]) for task, number in found.results["n-samples"].items()}
    warn_truncated(found.truncated, num_items, max_tokens(model.config, tokenizer))
    return Scored(scores(found.results, evaluations), outcomes(found.results), found.batch_size, found.truncated)


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    kind: Kind,
    evaluations: Mapping[str, InMemoryTask],
    settings: Scoring,
    limit: int | None,
    batch_size: int,
    bootstrap_draws: int = BOOTSTRAP_DRAWS,
) -> Evaluated:
    """Runs lm-eval, at half the batch size as often as memory does not suffice.

    Args:
        limit: items of each task.
        batch_size: the first that is tried.
        bootstrap_draws: 0 for no standard errors at all.
    """
    import lm_eval
    import torch
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    from bench.process import rng

    tasks = {"tasks": dict(evaluations), "groups": {}, "group_map": {}}
    while True:
        try:
            with (
                rng.preserved(),
                evaluating(model),
                _greedy(model),
                _quiet(),
                _allowing_code(settings),
                language_model(model, tokenizer, kind, evaluations, settings.backend, batch_size) as lm,
            ):
                results = lm_eval.evaluate(
                    lm=lm,
                    task_dict=tasks,
                    limit=limit,
                    bootstrap_iters=bootstrap_draws,
                    log_samples=True,
                    confirm_run_unsafe_code=settings.confirm_run_unsafe_code,
                )
                return Evaluated(results, batch_size, count_truncated(results["samples"], lm, kind, settings.backend))
        except RuntimeError as error:
            if batch_size == 1 or not (isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)):
                raise
        clear_device_cache(garbage_collection=True)  # after the handler: the error holds on to every tensor
        batch_size //= 2
        warnings.warn(f"memory does not suffice: scoring again with score.batch_size={batch_size}", stacklevel=3)


@contextmanager
def _greedy(model: PreTrainedModel) -> Iterator[None]:
    """The model generates by what it is told, not by defaults that it was published with."""
    from transformers import GenerationConfig

    modules = cast("nn.Module", model).modules()
    holders = {m: vars(m)["generation_config"] for m in modules if "generation_config" in vars(m)}
    for holder, config in holders.items():
        if isinstance(config, GenerationConfig):
            cast(Any, holder).generation_config = plain_generation_config(config)
    try:
        yield
    finally:
        for holder, config in holders.items():
            cast(Any, holder).generation_config = config


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' remarks on settings that are meant as they are, and without a forked bootstrap.

    Long prompts are counted here. A bootstrap of few items draws some that are all of one class, of which scikit-learn
    warns each time.
    """
    from bench.tasks.definition import quiet

    with quiet("transformers"), _variable("DISABLE_MULTIPROC"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A single label was found", category=UserWarning)
        warnings.filterwarnings("ignore", message="F-score is ill-defined")
        yield


@contextmanager
def _allowing_code(settings: Scoring) -> Iterator[None]:
    """With leave, the metric that runs a model's code does so."""
    if settings.confirm_run_unsafe_code:
        with _variable("HF_ALLOW_CODE_EVAL"):
            yield
    else:
        yield


@contextmanager
def _variable(name: str) -> Iterator[None]:
    """An environment variable is 1 inside."""
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
