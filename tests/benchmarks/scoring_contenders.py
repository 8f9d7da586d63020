"""Scoring the model as it is: the suite's stage against lm-eval's HFLM, the same items at the same batch size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import ours
from cost import Cost, measured
from process import fresh

BATCH_SIZE = 32
# Answers end at their first full stop: SmolLM2's have 2 to 48 tokens then.
ANSWERS = {"until": ["."], "max_gen_toks": 48, "do_sample": False}


@dataclass(frozen=True)
class Scored:
    """What one contender took, and what it found.

    Attributes:
        answers: of each item and filter the choice, or what the filter takes of the generated text.
        pairs: tokens of prompt and of answer, of each generated answer; those of each context and of all its choices.
    """

    cost: Cost
    answers: list[Any]
    pairs: list[tuple[int, int]]


def contenders(overrides: tuple[str, ...], num_items: int, generates: bool) -> dict[str, Any]:
    """Both sides, each in a process of its own."""
    given = {"overrides": (*overrides, f"score.batch_size={BATCH_SIZE}"), "generates": generates}
    return {side: lambda side=side: fresh(_score, side=side, num_items=num_items, **given) for side in ("ours", "HFLM")}


def same_answers(scored: dict[str, list[Scored]]) -> str:
    """How many answers of the two sides agree, as "64 of 64"."""
    mine, theirs = (scored[side][0].answers for side in ("ours", "HFLM"))
    return f"{sum(one == other for one, other in zip(mine, theirs, strict=True))} of {len(theirs)}"


def _score(side: str, overrides: tuple[str, ...], num_items: int, generates: bool) -> Scored:
    """One contender, after two items that are not timed, because they start what starts lazily."""
    score = {"ours": _ours, "HFLM": _hflm}[side]
    with ours.silence():
        cfg = ours.composed(*overrides, "method=none")
        loaded = cfg.model.load(cfg.task.num_labels, cfg.seed)
        evaluations = cfg.task.prepare(loaded, cfg.seed, cfg.score.split, cfg.trains).evaluations
        (evaluation,) = evaluations.values()
        if generates:
            evaluation.set_config("generation_kwargs", ANSWERS)
        sum(parameter.abs().sum().item() for parameter in loaded.model.parameters())  # brings mapped weights in
        score(loaded, evaluations, cfg.score, 2)
        with measured() as cost:
            found, texts = score(loaded, evaluations, cfg.score, num_items)
    answers = [one.choice if one.choice is not None else one.response for one in found]
    return Scored(cost, answers, [tuple(len(loaded.tokenizer(text).input_ids) for text in pair) for pair in texts])


def _ours(loaded: Any, evaluations: Any, settings: Any, num_items: int) -> tuple[list[Any], list[Any]]:
    from bench.score import score

    return score(loaded, evaluations, replace(settings, limit=num_items)).outcomes, []


def _hflm(loaded: Any, evaluations: Any, settings: Any, num_items: int) -> tuple[list[Any], list[Any]]:
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    from bench.score.rows import outcomes

    lm = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=settings.batch_size)
    found = lm_eval.evaluate(lm=lm, task_dict=dict(evaluations), limit=num_items, bootstrap_iters=2)
    (samples,) = found["samples"].values()
    by_item = {sample["doc_id"]: sample for sample in samples}.values()
    return outcomes(found, evaluations), [_texts(sample) for sample in by_item]


def _texts(sample: dict[str, Any]) -> tuple[str, str]:
    """Of a sample the prompt, and what continues it: the generated answer, or all choices."""
    arguments = [given.values() if isinstance(given, dict) else given for given in sample["arguments"]]
    arguments = [tuple(given) for given in arguments]
    answers = [str(given[1]) for given in arguments] if len(arguments) > 1 else [sample["resps"][0][0]]
    return arguments[0][0], "".join(answers)
