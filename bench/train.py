"""Training settings, what training leaves behind, and the stage itself; the loop is transformers.Trainer's."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

if TYPE_CHECKING:
    from torch import nn

    from bench.measure import AlignmentProbe
    from bench.measure import Row as AlignmentRow
    from bench.tasks import PreparedTask

Row = dict[str, Any]


class DivergedError(RuntimeError):
    """The loss became NaN or infinite at `step`."""

    def __init__(self, loss: float, step: int) -> None:
        super().__init__(f"the loss is {loss} at step {step}; take a lower train.learning_rate")
        self.step = step


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Train:
    """conf/train/*.yaml; the names are transformers.TrainingArguments' where it has them.

    Attributes:
        learning_rate: the schedule's peak; None only for a method that trains nothing.
        batch_size: examples a backward pass; an optimiser step sees gradient_accumulation_steps of them.
        held_out_steps: interval of the held-out loss; 0 takes it at the end only.
        precision: fp32, or bf16 autocast over float32 masters.
    """

    max_steps: PositiveInt
    batch_size: PositiveInt
    gradient_accumulation_steps: PositiveInt
    learning_rate: PositiveFloat | None
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"]
    warmup_steps: NonNegativeInt
    weight_decay: NonNegativeFloat
    adam_beta1: NonNegativeFloat
    adam_beta2: NonNegativeFloat
    adam_epsilon: PositiveFloat
    max_grad_norm: PositiveFloat
    held_out_steps: NonNegativeInt
    precision: Literal["fp32", "bf16"]

    def first_learning_rate(self, examples_a_batch: int | None = None) -> float:
        """The schedule's first value above zero.

        Args:
            examples_a_batch: count the warm-up in batches of this size instead of optimiser steps, as LoRA-SB's
                published code does.
        """
        peak = self.learning_rate or 0.0
        if self.lr_scheduler_type == "constant" or not self.warmup_steps:
            return peak
        shrink = examples_a_batch / (self.batch_size * self.gradient_accumulation_steps) if examples_a_batch else 1.0
        return min(peak, peak * shrink / self.warmup_steps)


@plain_dataclass(frozen=True)
class Training:
    """What training leaves behind.

    Attributes:
        curve: one row a step: step, loss, learning_rate, grad_norm, tokens, seconds; held_out_loss where taken.
        seconds: wall time of the loop without the alignment measures.
        num_tokens: label and prompt tokens seen, padding not counted.
        held_out_loss: after the last step, nats a token.
    """

    curve: list[Row]
    seconds: float
    num_tokens: int
    held_out_loss: float


def order(num_examples: int, num_draws: int, seed: int) -> list[int]:
    """Which example is drawn when: epoch after epoch, each its own permutation; the same for every method."""
    import torch

    from bench import rng

    generator = rng.stream(seed, "data")
    drawn: list[int] = []
    while len(drawn) < num_draws:
        drawn += torch.randperm(num_examples, generator=generator).tolist()
    return drawn[:num_draws]


def train(
    model: nn.Module,
    task: PreparedTask,
    settings: Train,
    seed: int,
    probe: AlignmentProbe,
    log: Callable[[Row, list[AlignmentRow]], None],
) -> Training:
    """Fine-tunes whatever of the model requires a gradient.

    Args:
        task: its training examples, drawn in the order of `order`, and its held-out examples.
        settings: budget, batch, schedule, optimiser.
        seed: the run's.
        probe: the alignment measures; asked at step 0 and when due.
        log: called with each finished row of the curve and the alignment rows of the same step.

    Raises:
        DivergedError: a loss is NaN or infinite; the message names the step.
    """
    from bench.trainer import BenchTrainer, Journal, arguments

    a_step = settings.batch_size * settings.gradient_accumulation_steps
    drawn = [task.train[index] for index in order(len(task.train), settings.max_steps * a_step, seed)]
    tokens = [len(example.input_ids) for example in drawn]
    tokens_a_step = [sum(tokens[start : start + a_step]) for start in range(0, len(tokens), a_step)]
    journal = Journal(tokens_a_step, probe, log)
    with tempfile.TemporaryDirectory() as scratch:  # the Trainer wants a folder; nothing is kept there
        trainer = BenchTrainer(model, arguments(settings, seed, scratch), drawn, task, journal)
        try:
            journal.begin(model)
            trainer.train()
            if "held_out_loss" not in journal.curve[-1]:
                trainer.evaluate()
            return journal.finish()
        finally:
            journal.close()
