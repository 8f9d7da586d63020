"""The process that does runs of a sweep, one after another (bench.sweep.workers): `python -m bench.run --worker`."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from bench.runs import job
from bench.runs.record import FAILED

if TYPE_CHECKING:
    from bench.config import Run


@dataclass(frozen=True)
class Cell:
    """A cell as it is sent to a worker.

    Attributes:
        run: validated.
        position: "[3/21]", for the lines printed.
        origin: for the run's record.
    """

    run: Run
    position: str
    origin: job.Origin


class WithoutBars:
    """stderr without progress bars: those of several workers would overwrite one another.

    tqdm begins what it writes with a carriage return, and ends a bar that stays with a line feed alone.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._in_bar = stream, False

    def write(self, text: str) -> int:
        """Writes what is no bar."""
        before, self._in_bar = self._in_bar, text.startswith("\r")
        if not self._in_bar and not (before and text == "\n"):
            self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def serve(spine: Callable[..., Any]) -> None:
    """In a worker: does the runs that come through its standard input, until the sweep ends.

    Args:
        spine: bench.run.run.

    Raises:
        SystemExit: a signal has come; the run's state has been written.
    """
    connection = Connection(os.dup(0))  # not inherited by processes that libraries start and that may live on
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    sys.stderr = WithoutBars(sys.stderr)
    _import_stages()
    while True:
        try:
            cell: Cell = connection.recv()
        except EOFError:
            return
        num_before = len(job.offline)
        if replace(cell.run).run_id != cell.run.run_id:  # hashed anew from the files
            job.say(f"{cell.position} {cell.run.run_id}: failed: its data or its model changed since the sweep began")
            how = FAILED
        else:
            how = job.execute(cell.run, spine, cell.position, cell.origin)
        with suppress(OSError):  # the sweep has been killed meanwhile
            connection.send((how, job.offline[num_before:]))


def _import_stages() -> None:
    """Imports what every run needs, which takes seconds; the garbage collections of each run leave it out."""
    import lm_eval.evaluator  # noqa: F401

    import bench.init.stage
    import bench.model.weights
    import bench.score.stage
    import bench.train.loop  # noqa: F401

    gc.freeze()
