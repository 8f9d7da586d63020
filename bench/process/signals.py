"""Signals that end a run early: it finishes its step, writes a checkpoint, says that it was interrupted, and stops.

SIGINT and SIGTERM stop the sweep with it. SIGUSR1 and SIGUSR2 are what Slurm sends before it takes a node away: when
the run has stopped, whoever listened before is called (submitit requeues the job), or else Slurm is asked to requeue.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_PREEMPTION = (signal.SIGUSR1, signal.SIGUSR2)


class InterruptedRunError(BaseException):
    """A signal has ended the run; no error of its own, so that nothing takes it for one."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _State:
    """Of this process: which signal came, who listened before, and whether it must wait for the end of a step."""

    came: int | None = None
    deferring = 0
    before: dict[int, Any] = {}  # noqa: RUF012  the process's one


@contextmanager
def listening(
    hear: Callable[[int], object], numbers: Sequence[int] = (signal.SIGINT, signal.SIGTERM)
) -> Iterator[dict[int, Any]]:
    """Inside, `hear` is called with the number of each of these signals; yields the handlers they had before.

    Python lets its main thread alone set handlers; in another thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield {}
        return
    before = {number: signal.signal(number, lambda number, _frame: hear(number)) for number in numbers}
    try:
        yield before
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def handled() -> Iterator[None]:
    """Inside, a signal raises InterruptedRunError, at once or at the end of what is `deferred`."""
    _State.came, _State.deferring = None, 0
    # SIGUSR1 and SIGUSR2 as well: without Slurm nobody sends them on purpose, and they would end the process.
    with listening(_hear, SIGNALS) as _State.before:
        try:
            yield
        finally:
            _State.came = None


def _hear(number: int) -> None:
    again = _State.came is not None
    _State.came = _State.came or number
    if not _State.deferring or (again and number == signal.SIGINT):  # a second Ctrl-C does not wait
        raise InterruptedRunError(number)


def requested() -> bool:
    """Whether a signal has come: what is deferred should end soon."""
    return _State.came is not None


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, a signal is only noted; it is raised at the end."""
    _State.deferring += 1
    try:
        yield
    finally:
        _State.deferring -= 1
    stop_if_requested()


def stop_if_requested() -> None:
    """Ends the run here if a signal has come and nothing around is deferred.

    Raises:
        InterruptedRunError: it has.
    """
    if _State.came is not None and not _State.deferring:
        raise InterruptedRunError(_State.came)


def stop() -> NoReturn:
    """Ends the run here, which has finished what it had to after a signal to it or to another of its processes.

    Raises:
        InterruptedRunError: always.
    """
    raise InterruptedRunError(_State.came or signal.SIGTERM)


def leave(number: int, listener: Any) -> NoReturn:
    """Ends the process as the signal asks, after the run's state has been written.

    Args:
        listener: who heard the signal before the run began, as `listener_of` says.

    Raises:
        SystemExit: always; 128 and the signal's number, as a shell says it.
    """
    if number in _PREEMPTION:
        if callable(listener):
            listener(number, None)
        else:
            _requeue()
    raise SystemExit(128 + number)


def listener_of(number: int) -> Callable[[int, FrameType | None], Any] | int | None:
    """Who hears a signal outside the run; to be asked inside `handled`."""
    return _State.before.get(number)


def _requeue() -> None:
    """Asks Slurm to start this job again; a job that submitit has not started."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is not None:
        subprocess.run(["scontrol", "requeue", job], check=False, timeout=60)
