"""The stage: fine-tunes what the method left trainable, in an order of examples that all methods share."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from bench import rng
from bench.train.settings import Row, Train, Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bench.measure import AlignmentProbe
    from bench.measure import Row as AlignmentRow
    from bench.tasks import PreparedTask


def order(num_examples: int, num_draws: int, seed: int) -> list[int]:
    """Which example is drawn when: epoch after epoch, each its own permutation; the same for every method."""
    generator = rng.stream(seed, "data")
    drawn: list[int] = []
    while len(drawn) < num_draws:
        drawn += torch.randperm(num_examples, generator=generator).tolist()
    return drawn[:num_draws]


def train(
    model: PreTrainedModel,
    task: PreparedTask,
    settings: Train,
    loraplus_lr_ratio: float | None,
    seed: int,
    probe: AlignmentProbe,
    log: Callable[[Row, list[AlignmentRow]], None],
) -> Training:
    """Fine-tunes whatever of the model requires a gradient.

    Args:
        task: its training examples, drawn in the order of `order`, and its held-out examples.
        settings: budget, batch, schedule, optimiser.
        loraplus_lr_ratio: learning rate of B over that of A; None: one rate for all.
        seed: the run's.
        probe: the alignment measures; asked at step 0 and when due.
        log: called with each finished row of the curve and the alignment rows of the same step.

    Raises:
        DivergedError: a loss is NaN or infinite; the message names the step.
    """
    from bench.train.loop import BenchTrainer, Journal, arguments

    a_step = settings.batch_size * settings.gradient_accumulation_steps
    drawn = [task.train[index] for index in order(len(task.train), settings.max_steps * a_step, seed)]
    tokens = [example.num_tokens for example in drawn]
    tokens_a_step = [sum(tokens[start : start + a_step]) for start in range(0, len(tokens), a_step)]
    journal = Journal(tokens_a_step, probe, log)
    with tempfile.TemporaryDirectory() as scratch:  # the Trainer wants a folder; nothing is kept there
        trainer = BenchTrainer(model, arguments(settings, seed, scratch), drawn, task, journal, loraplus_lr_ratio)
        try:
            journal.begin(model)
            trainer.train()
            if "held_out_loss" not in journal.curve[-1]:
                trainer.evaluate()
            return journal.finish()
        finally:
            journal.close()
