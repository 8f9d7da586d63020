"""Training as a stage: fine-tunes the trainable parameters, in an order of examples that all methods share."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from typing import TYPE_CHECKING, cast

import torch

from bench.process import rng, signals
from bench.systems.base import System
from bench.systems.none import NO_SYSTEM
from bench.train.settings import Train, Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bench.runs.attempt import Attempt
    from bench.tasks import PreparedTask
    from bench.train.probe import AlignmentProbe


def order(num_examples: int, num_draws: int, seed: int) -> list[int]:
    """Indices of the training examples in the order of training: one permutation an epoch, equal for all methods."""
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
    logbook: Attempt,
    system: System = NO_SYSTEM,
) -> Training:
    """Fine-tunes the parameters that require a gradient.

    Args:
        model: changed in place.
        task: its training examples, drawn in the order of `order`, and its validation examples.
        settings: budget, batch, schedule, optimiser.
        loraplus_lr_ratio: learning rate of B over that of A; None: one rate for all.
        seed: the run's.
        probe: the alignment measures, taken at step 0 and when due.
        logbook: is given each finished row of the curve and the alignment rows of the same step; training resumes
            from the newest of its checkpoints, with the same bits as without interruption.
        system: changes gradients, steps and tensors of the probe's layers.

    Raises:
        DivergedError: a loss is NaN or infinite; the message names the step.
        InterruptedRunError: a signal has come; a checkpoint of the last step has been written.
        StoppedRunError: the logbook's stop_at_step has been reached; its checkpoint has been written.
    """
    from bench.train.journal import Journal
    from bench.train.loop import BenchTrainer, arguments
    from bench.train.sharding import layout
    from bench.train.systems import SystemHooks

    a_step = settings.batch_size * settings.gradient_accumulation_steps
    drawn = [task.train[index] for index in order(len(task.train), settings.max_steps * a_step, seed)]
    tokens = [example.num_tokens for example in drawn]
    tokens_a_step = [sum(tokens[start : start + a_step]) for start in range(0, len(tokens), a_step)]
    checkpoints, found = logbook.checkpoints, logbook.resume_from
    laid = layout(model, settings.parallel)
    hooks = SystemHooks(system, probe.layers, seed, probe.initial)
    journal = Journal(tokens_a_step, probe, logbook, settings.precision, laid.whole, lambda: hooks.penalty)
    scratch = tempfile.TemporaryDirectory() if checkpoints is None else nullcontext(str(checkpoints.folder))
    with scratch as folder, signals.deferred():
        given = arguments(settings, seed, folder, **laid.settings)
        trainer = BenchTrainer(laid.trained, given, drawn, task, journal, loraplus_lr_ratio, hooks)
        trainer.add_callback(laid)
        try:
            journal.begin(model, found)
            if found is not None and found.step == logbook.stop_at_step and found.step < settings.max_steps:
                trainer.evaluate_checkpoint(found.path)  # of a run that was interrupted there
                logbook.stop(found.step, settings.max_steps, cast(float, journal.eval_loss))
            trainer.train(resume_from_checkpoint=None if found is None else str(found.path))
            if journal.interrupted:
                signals.stop()
            if journal.stopped:
                logbook.stop(len(journal.curve), settings.max_steps, cast(float, journal.eval_loss))
            if "eval_loss" not in journal.curve[-1]:
                trainer.evaluate()
            laid.finish()
            return journal.finish()
        except Exception:
            if found is not None and len(journal.curve) == found.step and checkpoints is not None:
                checkpoints.discard(found.step)  # what cannot be gone on from must not be tried again
            raise
        finally:
            hooks.restore_weights()
            journal.close()
