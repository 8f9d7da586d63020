"""The tokens and batches that go through a model in each phase of a run, bounded from above."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.config import Run
    from bench.tasks.data import Dataset

GUESSED_CHOICES = 4  # where a definition computes them from the row; the tests of commonsense have two to five


@dataclass(frozen=True)
class Passes:
    """What goes through a model in one phase, as upper bounds.

    Attributes:
        tokens: padding included.
        batches: passes one after another; of generation, one a token.
    """

    tokens: int
    batches: int

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.tokens + other.tokens, self.batches + other.batches)

    def times(self, count: int) -> Passes:
        """The same so many times."""
        return Passes(self.tokens * count, self.batches * count)


def passes(run: Run) -> dict[str, Passes]:
    """Of each phase; `eval` is the eval loss taken during training, `measure` the alignment at its intervals."""
    task, train = run.task, run.train
    found = {"score": _scoring(run)}
    if run.method.requires:
        found["calibrate"] = _passes(task.calibration_samples, task.max_length, task.calibration_batch_size)
    if not run.trains:
        return found
    batches = train.max_steps * train.gradient_accumulation_steps
    found["train"] = _passes(batches * train.batch_size, task.max_length, train.batch_size)
    looked = math.ceil(train.max_steps / train.eval_steps) if train.eval_steps else 1
    found["eval"] = _passes(task.eval_samples, task.max_length, train.batch_size).times(looked)
    if interval := run.measure.alignment_steps:
        found["measure"] = _passes(2 * task.probe_samples, task.max_length, 2 * task.probe_samples).times(
            1 + train.max_steps // interval
        )
    return found


def _passes(examples: int, length: int, batch_size: int) -> Passes:
    return Passes(examples * length, math.ceil(examples / batch_size))


def _scoring(run: Run) -> Passes:
    """Prompts with each choice or, where answers are generated, with the longest answer allowed."""
    found = Passes(0, 0)
    for dataset in (run.task.datasets[name] for name in run.task.score):
        generated, choices = _asked(dataset.definitions[run.task.template])
        if run.model.found_kind == "encoder":
            generated, choices = 0, 1
        items = num_items(run, dataset)
        items += min(items, run.score.merged_samples)
        found += _passes(items * choices, run.task.max_length, run.score.batch_size)
        found += Passes(items * generated, math.ceil(items / run.score.batch_size) * generated)
    return found


def num_items(run: Run, dataset: Dataset) -> int:
    """How many items of a dataset a run scores, by the official number of rows."""
    if run.score.split == "validation" or (dataset.hub is not None and dataset.splits.test is None):
        found = run.task.validation_samples
    elif dataset.hub is None:
        from bench.model.embedded.items import SPLITS

        found = SPLITS["test"]
    else:
        found = dataset.rows.get(dataset.splits.test or "", 0)
    return found if run.score.limit is None else min(found, run.score.limit)


@functools.cache
def _asked(definition: str) -> tuple[int, int]:
    """The tokens that a definition lets a model generate, and how many choices it has read."""
    from bench.score.guard import max_gen_toks

    content = _content(definition)
    if content["output_type"] == "generate_until":
        return max_gen_toks(content.get("generation_kwargs")), 1
    if content["output_type"] != "multiple_choice":
        return 0, 1
    choices = content.get("doc_to_choice")
    return 0, len(choices) if isinstance(choices, list) else GUESSED_CHOICES


def _content(definition: str) -> dict[str, Any]:
    """As `read_definition`, with lm-eval's own functions by name: HumanEval's fetch a metric and run code on import."""
    from bench.tasks.definition import BUILT_IN, OWN, load_yaml, read_definition

    own, built_in = OWN / definition, BUILT_IN / definition
    if built_in.is_file() and not own.is_file():
        return load_yaml(built_in, resolve_func=False)
    return read_definition(definition)
