"""Signals that end a run early: it finishes its step, writes a checkpoint and an interrupted record, and stops.

SIGINT and SIGTERM stop the sweep too. SIGUSR1 and SIGUSR2 are what Slurm sends before it takes a node away: when the
run has stopped, the handler that was there before is called (submitit's requeues the job); without one, Slurm is asked
to requeue the job.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
PREEMPTION = (signal.SIGUSR1, signal.SIGUSR2)
PARENT = "LORA_INIT_BENCH_PARENT"  # the id of the process that a run must not outlive
PARENT_SECONDS = 5.0  # between two looks for it


class InterruptedRunError(BaseException):
    """A signal has ended the run. Not an Exception, so that nothing takes it for an error of the run."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _State:
    came: int | None = None  # the signal
    deferring = 0  # number of `deferred` contexts that are open
    watching = False  # the parent


@contextmanager
def listening(
    hear: Callable[[int], object], numbers: Sequence[int] = (signal.SIGINT, signal.SIGTERM)
) -> Iterator[dict[int, Any]]:
    """Inside, `hear` is called with the number of each of these signals; yields the handlers they had before.

    Only the main thread receives signals; in another thread nothing changes, and what is yielded is empty.
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
    """Inside, a signal raises InterruptedRunError, at once or at the end of what is `deferred`.

    Raises:
        SystemExit: InterruptedRunError came out of the context; its code is 128 and the signal's number, as a shell
            has it. A handler that was there before hears SIGUSR1 and SIGUSR2 first.
    """
    _State.came, _State.deferring = None, 0
    number, before = None, {}
    try:
        with listening(_hear, SIGNALS) as before:
            if before and PARENT in os.environ and not _State.watching:
                _State.watching = True
                threading.Thread(target=_stop_with_parent, name="parent", daemon=True).start()
            yield
    except InterruptedRunError as stopped:
        number = stopped.number
    finally:
        _State.came = None
    if number is None:
        return
    if number in PREEMPTION:
        handler = before.get(number)
        if callable(handler):
            handler(number, None)
        elif "SLURM_JOB_ID" in os.environ:  # submitit asks for its own jobs
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False, timeout=60)
    raise SystemExit(128 + number)


def _hear(number: int) -> None:
    again = _State.came is not None
    _State.came = _State.came or number
    if not _State.deferring or (again and number == signal.SIGINT):  # a second Ctrl-C does not wait
        raise InterruptedRunError(number)


def requested() -> bool:
    """True if a signal has come, so that what is deferred should end soon."""
    return _State.came is not None


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, a signal is only noted; at the end it raises InterruptedRunError."""
    _State.deferring += 1
    try:
        yield
    finally:
        _State.deferring -= 1
    stop_if_requested()


def stop_if_requested() -> None:
    """Raises InterruptedRunError if a signal has come and no `deferred` context is open."""
    if _State.came is not None and not _State.deferring:
        raise InterruptedRunError(_State.came)


def stop() -> NoReturn:
    """Raises InterruptedRunError: for the signal that has come, or SIGTERM if another process of the run was lost."""
    raise InterruptedRunError(_State.came or signal.SIGTERM)


def _stop_with_parent() -> None:
    """Sends SIGTERM to this process when the one that PARENT names is gone: a sweep that was killed leaves no runs."""
    while str(os.getppid()) == os.environ[PARENT]:
        time.sleep(PARENT_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
