"""Scoring as a stage: lm-eval in process, decoding greedily, at a batch size that fits into memory."""

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
    """lm-eval's results, the batch size that fitted into memory, and the number of truncated items by task."""

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
        tokenizer: the model's.
        kind: causal, seq2seq or encoder.
        evaluations: lm-eval tasks by name.
        settings: limit, batch size, backend, and leave to run a model's code.

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
    """Runs lm-eval, and halves the batch size as long as it does not fit into memory.

    Args:
        model: possibly a PeftModel.
        tokenizer: the model's.
        kind: causal, seq2seq or encoder.
        evaluations: lm-eval tasks by name.
        settings: backend, and leave to run a model's code.
        limit: number of items of each task; None for all.
        batch_size: the first to try.
        bootstrap_draws: draws for standard errors without closed form; 0 for no such standard errors.
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
    """Puts the model's own generation defaults aside, such as sampling and beams."""
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
    """Silences libraries' remarks on intended settings, and keeps lm-eval from forking for its bootstrap.

    Long prompts are counted here; scikit-learn warns of every bootstrap draw that holds one class only.
    """
    from bench.tasks.definition import quiet

    with quiet("transformers"), _variable("DISABLE_MULTIPROC"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A single label was found", category=UserWarning)
        warnings.filterwarnings("ignore", message="F-score is ill-defined")
        yield


@contextmanager
def _allowing_code(settings: Scoring) -> Iterator[None]:
    """Lets the metric run a model's code if `confirm_run_unsafe_code` allows it."""
    if settings.confirm_run_unsafe_code:
        with _variable("HF_ALLOW_CODE_EVAL"):
            yield
    else:
        yield


@contextmanager
def _variable(name: str) -> Iterator[None]:
    """Sets an environment variable to 1 inside."""
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
