"""What surrounds one run: skips it if it is done, holds its lease, mirrors it to W&B, and records how it ends."""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.process import ranks, signals
from bench.process.redact import redacted
from bench.process.signals import InterruptedRunError
from bench.process.terminal import ERASE, ERROR, INFO
from bench.runs import assemble
from bench.runs.attempt import Attempt, held
from bench.runs.folder import RunFolder
from bench.runs.lease import LeaseLostError, holder
from bench.runs.progress import StoppedRunError, progress
from bench.runs.record import COMPLETED, FAILED, Record
from bench.runs.tracking import Tracker

if TYPE_CHECKING:
    from bench.config import Run
    from bench.runs.assemble import Result

Spine = Callable[["Run", Attempt], "Result"]

# What `execute` returns, beside `completed` and `failed`.
DONE, RUNNING, STOPPED = "done", "running", "stopped"

# Of this process: the ids of runs that failed, and W&B folders to upload.
failures: list[str] = []
offline: list[Path] = []


@dataclass(frozen=True)
class Origin:
    """What a record says of where its run comes from.

    Attributes:
        command: the command line that makes exactly this run.
        registration: hashes of the study's file, protocol and claims, as they are before the run.
    """

    command: str | None = None
    registration: Mapping[str, str] = field(default_factory=dict)

    def told(self, record: Record, attempts: list[dict[str, Any]]) -> None:
        """Puts it into a record, with the attempts at the run."""
        record.attempts, record.command = attempts, self.command
        if self.registration:
            record.registration = dict(self.registration)


def execute(cfg: Run, run: Spine, position: str, origin: Origin = Origin()) -> str:
    """Does one run, unless it is done or running in another process; prints a line that says how it ended.

    A run that was killed or interrupted is resumed from its newest checkpoint. One that failed is skipped, unless
    `run.retry_failed` is set. A pretrained model that another study has scored is not scored again: its run is copied.

    Args:
        cfg: the cell.
        run: bench.run.run.
        position: "[3/21]", for the lines printed.
        origin: for the run's record.

    Returns:
        completed, failed, done (earlier), running (in another process), or stopped (at run.stop_at_step).

    Raises:
        SystemExit: a signal has come; the run's state has been written.
    """
    ranks.start()
    if cfg.run.log == ERROR:
        warnings.simplefilter("ignore", UserWarning)
    with signals.handled():
        try:
            return _lead(cfg, run, position, origin) if ranks.rank() == 0 else _follow(cfg, run)
        except InterruptedRunError as stopped:
            say(f"{position} {cfg.run_id}: stopped by {stopped}; the same command resumes it", sys.stderr)
            raise


def _lead(cfg: Run, run: Spine, position: str, origin: Origin) -> str:
    """In the process of rank 0: decides whether the run is to be done, tells the other ranks, and does it."""
    folder = RunFolder.of(cfg)
    settled = _settled(cfg, folder)
    if settled is None:
        try:
            with held(folder, cfg.run.heartbeat_timeout_seconds, wait=cfg.run.when_running == "wait") as attempt:
                settled = _settled(cfg, folder)  # another process may have done it since
                if settled is None and attempt is None:
                    found = holder(folder.workspace)
                    who = "another process" if found is None else f"process {found.pid} on {found.host}"
                    settled = RUNNING, f"is running in {who}"
                elif settled is None and not cfg.trains and (other := folder.copy_of_another_study(cfg.results_dir)):
                    settled = DONE, f"scored before, in {other.parent}"
                elif settled is None and attempt is not None:
                    ranks.broadcast_object(True)
                    tell(cfg, f"{position} {cfg.run_id}")
                    return _attempt(cfg, run, attempt, position, origin)
        except (OSError, ValueError) as error:  # the lease could not be taken, or freed
            settled = FAILED, f"failed: {error}"
    assert settled is not None
    ranks.broadcast_object(False)
    status, text = settled
    if status == FAILED:
        failures.append(cfg.run_id)
        say(f"{position} {cfg.run_id}: {text}", sys.stderr)
    else:
        tell(cfg, f"{position} {cfg.run_id}: {text}")
    return status


def _settled(cfg: Run, folder: RunFolder) -> tuple[str, str] | None:
    """The status of a run that need not be done, and why; None if it is to be done."""
    record = folder.record
    if record is not None and record.status == FAILED and not cfg.run.retry_failed:
        return FAILED, f"failed before ({record.error}); run.retry_failed=true tries again"
    if folder.done:
        return DONE, "done before"
    return None if (reached := stopped(cfg)) is None else (STOPPED, reached)


def stopped(cfg: Run) -> str | None:
    """How far a run has come that is at run.stop_at_step, with the eval loss there, or beyond it; None if it is not."""
    stop, last = cfg.run.stop_at_step, cfg.train.max_steps
    if stop is None or stop >= last or not cfg.trains:
        return None
    found = progress(RunFolder.of(cfg))
    if found.step == stop and found.eval_loss is not None:
        return f"stopped at step {stop} of {last}, eval loss {found.eval_loss:.3f}"
    return f"is at step {found.step} of {last} already, beyond run.stop_at_step={stop}" if found.step > stop else None


def _attempt(cfg: Run, run: Spine, attempt: Attempt, position: str, origin: Origin) -> str:
    """Does a run whose lease this process holds, and records how it ends."""
    began = time.perf_counter()
    if (source := cfg.learning_rate_source) is not None:
        tell(cfg, f"train.learning_rate={cfg.rate} was not given: it is that of {source}")
    try:
        attempt.begin(cfg.identity, cfg.places)
        attempt.stop_at_step = cfg.run.stop_at_step
        with Tracker(cfg, attempt.wandb_id) as tracker:
            attempt.mirror = tracker.log
            try:
                record, outcomes = _recorded(cfg, run, attempt)
            except InterruptedRunError as stopped:
                record = assemble.interrupted(_as_far_as_known(cfg, attempt), str(stopped))
                origin.told(record, attempt.history)
                with suppress(OSError):  # its checkpoints are enough to resume from
                    attempt.interrupt(record)
                raise
            origin.told(record, attempt.history)
            with signals.deferred():
                tracker.finish(record)
                attempt.close(record, outcomes)
        if tracker.sync_path is not None:
            offline.append(tracker.sync_path)
    except StoppedRunError as stopped_here:
        tell(cfg, f"{position} {cfg.run_id}: {stopped_here}, {time.perf_counter() - began:.1f} s")
        return STOPPED
    except LeaseLostError as lost:
        say(f"{position} {cfg.run_id}: {lost}", sys.stderr)
        ranks.barrier_after_failure(cfg.run_id)
        return RUNNING
    except (OSError, ValueError) as error:  # a full disk or changed data: nothing to record, or no place for it
        record = assemble.failed(cfg, error, "")
        ranks.report(cfg.run_id, error)
    if record.error is not None:
        failures.append(cfg.run_id)
        say(f"{position} {cfg.run_id}: failed: {record.error}", sys.stderr)
        ranks.barrier_after_failure(cfg.run_id)
        return FAILED
    tell(cfg, f"{position} {cfg.run_id}: {_summary(record)}, {time.perf_counter() - began:.1f} s")
    return COMPLETED


def _recorded(cfg: Run, run: Spine, attempt: Attempt) -> tuple[Record, list[dict[str, Any]]]:
    """Does the run; returns its record, completed or failed, and its outcomes."""
    try:
        result = run(cfg, attempt)
    except LeaseLostError:
        raise
    except Exception as error:  # whatever it is, it is recorded and must not stop a sweep
        _tell_ranks(cfg, error)
        return assemble.failed(_as_far_as_known(cfg, attempt), error, traceback.format_exc()), []
    return assemble.completed(cfg, result), [outcome.row() for outcome in result.scored.outcomes]


def _as_far_as_known(cfg: Run, attempt: Attempt) -> Run:
    """The cell of a run that did not complete, with the learning rate of train.learning_rate=auto if it was found."""
    with suppress(ValueError):  # which is what the run failed of
        return cfg.with_curvature(attempt.curvature)
    return cfg


def _follow(cfg: Run, run: Spine) -> str:
    """In a process of rank > 0: does its share of the run; what it computes is the same as in rank 0, and not kept."""
    if not ranks.broadcast_object(True):  # rank 0's value counts
        return DONE
    with tempfile.TemporaryDirectory() as scratch:
        attempt = Attempt(RunFolder.of(cfg), scratch=Path(scratch))
        attempt.stop_at_step = cfg.run.stop_at_step
        try:
            run(cfg, attempt)
        except StoppedRunError:
            return STOPPED
        except Exception as error:  # rank 0 has it too, and records it
            say(f"process {ranks.rank()}: {type(error).__name__}: {error}", sys.stderr)
            _tell_ranks(cfg, error)
            ranks.barrier_after_failure(cfg.run_id)
            return FAILED
    return COMPLETED


def _tell_ranks(cfg: Run, error: Exception) -> None:
    """Tells the run's other processes of an error.

    Raises:
        InterruptedRunError: the error is only that one of them was killed, so that the run can be resumed.
    """
    if ranks.is_peer_loss(cfg.run_id, error):
        say(f"process {ranks.rank()} has lost another one: {error}", sys.stderr)
        signals.stop()
    ranks.report(cfg.run_id, error)


def tell(cfg: Run, text: str) -> None:
    """Says how a run goes, unless run.log asks for less."""
    if cfg.run.log == INFO:
        say(text)


def say(text: str, to: Any = None) -> None:
    """Prints a line at once, redacted; on a terminal over the line that says how far the sweep is."""
    stream = to or sys.stdout
    print(redacted(text), end=f"{ERASE if stream.isatty() else ''}\n", file=stream, flush=True)


def _summary(written: Record) -> str:
    parts = [] if written.eval_loss is None else [f"eval loss {written.eval_loss:.3f}"]
    for score in written.scores:
        error = "" if score.stderr is None else f" ± {score.stderr:.3f}"
        parts.append(f"{score.task} {score.metric} {score.value:.3f}{error}")
    return ", ".join(parts)
