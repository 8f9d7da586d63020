"""Faults, each a function that a run's process calls before it begins."""

import os
import signal
import sys
import time

from bench.runs import attempt, checkpoint
from bench.runs.attempt import Attempt
from bench.runs.checkpoint import Checkpoints
from bench.runs.lease import Lease
from bench.runs.record import RECORD


def die():
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def _before(owner, name, when, what=die):
    """Has `what` happen before a function is called whose arguments are of interest."""
    original = getattr(owner, name)

    def faulty(*arguments, **settings):
        if when(*arguments, **settings):
            what()
        return original(*arguments, **settings)

    setattr(owner, name, faulty)


def _after_step(number, what):
    _before(Attempt, "step", lambda _self, step, *_: step == number, what)


def kill_entering(phase):
    _before(Attempt, "enter", lambda _self, name: name == phase)


def kill_after_step(number):
    _after_step(number, die)


def kill_before_seal(step):
    """The Trainer has written its files, and nothing says that they are whole."""
    _before(Checkpoints, "seal", lambda _self, number, _journal: number == step)


def kill_while_saving(step):
    """The adapter is written, the optimiser is not."""
    from bench.train.loop import BenchTrainer

    _before(BenchTrainer, "_save_optimizer_and_scheduler", lambda self, _folder: self.state.global_step == step)


def kill_while_sealing(step):
    _before(
        checkpoint, "write_whole", lambda path, _text: path.parent.name == f"checkpoint-{step}" and "seal" in path.name
    )


def kill_before_record():
    _before(attempt, "write_record", lambda *_: True)


def kill_after_record():
    """The record is written, and the folder not yet under its own name."""
    _before(Lease, "confirm", lambda lease: (lease._workspace / "final" / RECORD).is_file())


def kill_after_rename():
    """The folder is under its own name, and the workspace is still there."""
    from shutil import rmtree

    def removed(path, **settings):
        if path.name == "replaced" and (path.parents[1] / path.parent.name[1:] / RECORD).is_file():
            die()
        return rmtree(path, **settings)

    attempt.shutil.rmtree = removed


def kill_after(seconds):
    signal.signal(signal.SIGALRM, lambda *_: die())
    signal.setitimer(signal.ITIMER_REAL, seconds)


def signal_after_step(number, what):
    _after_step(number, lambda: os.kill(os.getpid(), what))


def signal_entering(phase, what):
    _before(Attempt, "enter", lambda _self, name: name == phase, lambda: os.kill(os.getpid(), what))


def listened_and_signalled(number, what):
    """Somebody listens to the signal: writes what checkpoints there are, and leaves."""
    attempts = []

    def hear(_number, _frame):
        found = [path.name for path in (attempts[0].path / "checkpoints").iterdir()]
        (attempts[0].path.parent.parent / "heard").write_text(str(found))
        sys.exit(42)

    signal.signal(what, hear)
    _before(Attempt, "enter", lambda self, _phase: attempts.append(self))
    signal_after_step(number, what)


def fail_writing(name, number, error):
    """From the step on, a folder's files cannot be written: a full disk, in one of its words."""
    _before(checkpoint, "write_whole", lambda path, _text: name in path.name, lambda: _raise(error))


def _raise(error):
    raise error


def diverge_at(number):
    import torch

    from bench.train.loop import Trainer

    original = Trainer.training_step

    def step(self, *arguments, **settings):
        loss = original(self, *arguments, **settings)
        return loss * torch.nan if self.state.global_step + 1 == number else loss

    Trainer.training_step = step


def sleep_after_step(number, seconds):
    _after_step(number, lambda: time.sleep(seconds))
