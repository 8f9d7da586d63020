"""Scoring as a stage: lm-eval in process, decoding greedily, at a batch size that fits into memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from bench.model.layers import evaluating
from bench.model.limits import max_tokens
from bench.process.environment import quiet
from bench.runs.record_parts import ScoringFacts
from bench.score.backends import language_model, plain_generation_config
from bench.score.guard import check, count_truncated
from bench.score.loss import target_losses
from bench.score.rows import outcomes, scores
from bench.score.settings import Scored, Scoring

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from bench.model.load import LoadedModel
    from bench.tasks.definition import InMemoryTask
    from bench.tasks.targets import Targets

# Draws for the standard error of metrics without a closed form (MCC, F1); lm-eval's default of 100,000 takes minutes.
BOOTSTRAP_DRAWS = 200


def score(
    loaded: LoadedModel,
    evaluations: Mapping[str, InMemoryTask],
    settings: Scoring,
    targets: Mapping[str, Targets] | None = None,
) -> Scored:
    """Scores a model; leaves it in the mode it was in, and the global random streams as they were.

    Decoding is greedy: what the model's own generation_config says of sampling, beams and penalties is put aside, and
    the task definitions say do_sample=False; beams are searched where a definition has num_beams. A causal model's
    prompts are padded on the left, others on the right, with an attention mask; no request cache is used.

    Args:
        loaded: the model, possibly a PeftModel.
        evaluations: lm-eval tasks by name.
        settings: limit, batch size, backend, and leave to run a model's code.
        targets: the rows whose targets' loss is a score, too, by dataset.

    Raises:
        ValueError: as `check`.
    """
    check(loaded, evaluations, settings)
    losses, items = target_losses(loaded, targets or {}, settings)
    if settings.only_loss:
        return Scored(losses, items, ScoringFacts(precision=settings.precision))
    results, facts = evaluate(loaded, evaluations, settings, settings.limit, settings.batch_size)
    limit = max_tokens(loaded.model.config, loaded.tokenizer)
    for task, number in facts.truncated.items():
        if number:
            warnings.warn(
                f"{number} of {results['n-samples'][task]['effective']} scored items of {task} are longer than the "
                f"{limit} tokens that the model takes, and were cut",
                stacklevel=2,
            )
    found = [*scores(results, evaluations), *losses]
    datasets = list(dict.fromkeys(score.task for score in found))
    found.sort(key=lambda score: datasets.index(score.task))  # the loss after the dataset's metrics
    return Scored(found, [*outcomes(results, evaluations), *items], facts)


def evaluate(
    loaded: LoadedModel,
    evaluations: Mapping[str, InMemoryTask],
    settings: Scoring,
    limit: int | None,
    batch_size: int,
    bootstrap_draws: int = BOOTSTRAP_DRAWS,
) -> tuple[dict[str, Any], ScoringFacts]:
    """Runs lm-eval, and halves the batch size as long as it does not fit into memory.

    Args:
        loaded: the model, possibly a PeftModel.
        evaluations: lm-eval tasks by name.
        settings: backend, precision, tokens at a time, and leave to run a model's code.
        limit: number of items of each task; None for all.
        batch_size: the first to try.
        bootstrap_draws: draws for standard errors without closed form; 0 for no such standard errors.

    Returns:
        lm-eval's results; how items were scored: with the batches that fitted into memory, and how many were cut.
    """
    import lm_eval
    import torch
    from accelerate.utils import patch_environment
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    from bench.process import rng

    # lm-eval is to fork no processes for its bootstrap.
    switches = {"disable_multiproc": 1} | ({"hf_allow_code_eval": 1} if settings.confirm_run_unsafe_code else {})
    tasks = {"tasks": dict(evaluations), "groups": {}, "group_map": {}}
    while True:
        try:
            with (
                rng.preserved(),
                evaluating(loaded.model),
                _greedy(loaded.model),
                quiet("lm_eval", "transformers"),  # long prompts are counted here
                warnings.catch_warnings(),
                patch_environment(**switches),
                language_model(loaded, evaluations, settings, batch_size) as lm,
            ):
                # scikit-learn warns of every bootstrap draw that holds one class only.
                warnings.filterwarnings("ignore", message="A single label was found", category=UserWarning)
                warnings.filterwarnings("ignore", message="F-score is ill-defined")
                results = lm_eval.evaluate(
                    lm=lm,
                    task_dict=tasks,
                    limit=limit,
                    bootstrap_iters=bootstrap_draws,
                    log_samples=True,
                    confirm_run_unsafe_code=settings.confirm_run_unsafe_code,
                )
                truncated = count_truncated(results["samples"], lm, loaded.kind, settings.backend)
                facts = ScoringFacts(
                    backend=settings.backend,
                    batch_size=batch_size,
                    precision=settings.precision,
                    truncated=truncated,
                    merged=None,
                )
                if isinstance(getattr(lm, "shared_context", None), bool):
                    facts.shared_context, facts.batch_tokens, facts.num_split = (
                        lm.shared_context,
                        lm.batch_tokens,
                        lm.num_split,
                    )
                return results, facts
        except RuntimeError as error:
            if batch_size == 1 or not (isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)):
                raise
        clear_device_cache(garbage_collection=True)  # after the handler: the error holds on to every tensor
        batch_size //= 2
        warnings.warn(f"memory does not suffice: scoring again with score.batch_size={batch_size}", stacklevel=3)


@contextmanager
def _greedy(model: PreTrainedModel) -> Iterator[None]:
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
