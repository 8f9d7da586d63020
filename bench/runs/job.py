"""Around one run: skips what is done, holds its lease, keeps folder and W&B mirror, and records what happens."""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.process import ranks, signals
from bench.process.redact import redacted
from bench.process.signals import InterruptedRunError
from bench.runs import assemble
from bench.runs.attempt import Attempt
from bench.runs.folder import RunFolder, Workspace, held
from bench.runs.lease import LeaseLostError, holder
from bench.runs.record import COMPLETED, FAILED, Record
from bench.runs.tracking import Tracker

if TYPE_CHECKING:
    from bench.config import Run
    from bench.runs.assemble import Result

Spine = Callable[["Run", Attempt], "Result"]

# How a run ended, beside `completed` and `failed`.
DONE, RUNNING = "done", "running"

# What this process has seen: run ids that failed, and W&B folders to upload.
failures: list[str] = []
offline: list[Path] = []


@dataclass
class Ending:
    """What is known of a run when it is over: its record, its outcomes, and the signal that ended it."""

    record: Record
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    error: Exception | None = None


def execute(cfg: Run, run: Spine, position: str, command: str | None = None) -> str:
    """Does one run, unless it is done or another process does it; says in a line how it went.

    A run that was killed or interrupted goes on from its newest checkpoint; one that failed is left alone, unless
    `run.retry_failed` is set. A pretrained model that another study has scored is not scored again: the run is copied.

    Args:
        cfg: the cell.
        run: the spine.
        position: "[3/21]", for the lines printed.
        command: the command line that makes exactly this run, for its record.

    Returns:
        completed, failed, done (before), or running (elsewhere).

    Raises:
        SystemExit: a signal has come; the run's state has been written.
    """
    ranks.start()
    signal_number = listener = None
    with signals.handled():
        try:
            if ranks.rank() > 0:
                return _help(cfg, run)
            return _lead(cfg, run, position, command)
        except InterruptedRunError as stopped:
            signal_number, listener = stopped.number, signals.listener_of(stopped.number)
            say(f"{position} {cfg.run_id}: stopped by {stopped}; the same command goes on from here", sys.stderr)
    signals.leave(signal_number, listener)


def _lead(cfg: Run, run: Spine, position: str, command: str | None) -> str:
    folder = RunFolder.of(cfg)
    settled = _settled(cfg, folder)
    if settled is None:
        with held(folder, cfg.run.heartbeat_timeout_seconds, wait=cfg.run.when_running == "wait") as workspace:
            # Another process may have done it since.
            settled = _settled(cfg, folder) or (_copied(cfg, folder) if workspace else _elsewhere(folder))
            if settled is None and workspace is not None:
                ranks.broadcast_object(True)
                say(f"{position} {cfg.run_id}")
                return _attempt(cfg, run, workspace, position, command)
    assert settled is not None
    ranks.broadcast_object(False)
    status, text = settled
    say(f"{position} {cfg.run_id}: {text}", sys.stderr if status == FAILED else sys.stdout)
    if status == FAILED:
        failures.append(cfg.run_id)
    return status


def _settled(cfg: Run, folder: RunFolder) -> tuple[str, str] | None:
    """That the run need not be done, and why in words; None if it must be."""
    record = folder.record
    if record is not None and record.status == FAILED and not cfg.run.retry_failed:
        return FAILED, f"failed before ({record.error}); run.retry_failed=true tries again"
    return (DONE, "done before") if folder.done else None


def _copied(cfg: Run, folder: RunFolder) -> tuple[str, str] | None:
    other = None if cfg.trains else folder.copy_of_another_study(cfg.results_dir)
    return (DONE, f"scored before, in {other.parent}") if other else None


def _elsewhere(folder: RunFolder) -> tuple[str, str]:
    found = holder(folder.workspace)
    who = "another process" if found is None else f"process {found.pid} on {found.host}"
    return RUNNING, f"{who} does it"


def _attempt(cfg: Run, run: Spine, workspace: Workspace, position: str, command: str | None) -> str:
    """Does what is to be done of a run whose lease this process holds."""
    began = time.perf_counter()
    mirror = cfg.results_dir / cfg.study  # wandb makes its own folder wandb/ there
    wandb_id = workspace.wandb_id or uuid.uuid4().hex[:12]
    try:
        workspace.folder.refuse_other_data(cfg.identity)
        workspace.begin(cfg.identity, wandb_id)
        with Tracker(cfg.track, mirror, cfg.run_id, cfg.study, cfg.to_dict(), wandb_id) as tracker:
            attempt = Attempt(workspace, cfg.checkpoint, tracker.log)
            try:
                ending = _ended(cfg, run, attempt)
            except InterruptedRunError as stopped:
                stopped_record = assemble.interrupted(cfg, str(stopped))
                stopped_record.attempts, stopped_record.command = attempt.history, command
                with suppress(OSError):  # its checkpoints say enough
                    workspace.interrupt(stopped_record)
                raise
            ending.record.attempts, ending.record.command = attempt.history, command
            with signals.deferred():
                tracker.finish(ending.record)
                workspace.close(ending.record, ending.outcomes)
        if tracker.sync_path is not None:
            offline.append(tracker.sync_path)
    except LeaseLostError as lost:
        say(f"{position} {cfg.run_id}: {lost}", sys.stderr)
        ranks.barrier_after_failure(cfg.run_id)
        return RUNNING
    except (OSError, ValueError) as error:  # a full disk, changed data: there is nothing to record, or no place for it
        ending = Ending(assemble.failed(cfg, error, ""), error=error)
        ranks.report(cfg.run_id, error)
    if ending.error is not None:
        failures.append(cfg.run_id)
        say(f"{position} {cfg.run_id}: failed: {type(ending.error).__name__}: {ending.error}", sys.stderr)
        ranks.barrier_after_failure(cfg.run_id)
        return FAILED
    say(f"{position} {cfg.run_id}: {_summary(ending.record)}, {time.perf_counter() - began:.1f} s")
    return COMPLETED


def _ended(cfg: Run, run: Spine, attempt: Attempt) -> Ending:
    try:
        result = run(cfg, attempt)
    except LeaseLostError:
        raise
    except Exception as error:  # whatever it is, it is recorded and must not stop a sweep
        _tell(cfg, error)
        return Ending(assemble.failed(cfg, error, traceback.format_exc()), error=error)
    return Ending(assemble.completed(cfg, result), [asdict(outcome) for outcome in result.outcomes])


def _help(cfg: Run, run: Spine) -> str:
    """Does a run's share in a process that is not its first: what it finds is the same, and is not kept."""
    if not ranks.broadcast_object(True):  # what the first says counts
        return DONE
    workspace = Workspace(RunFolder.of(cfg))
    with tempfile.TemporaryDirectory() as scratch:
        try:
            run(cfg, Attempt(workspace, cfg.checkpoint, lambda _row, _alignment: None, Path(scratch)))
        except Exception as error:  # as in the first process, which records it
            say(f"process {ranks.rank()}: {type(error).__name__}: {error}", sys.stderr)
            _tell(cfg, error)
            ranks.barrier_after_failure(cfg.run_id)
            return FAILED
    return COMPLETED


def _tell(cfg: Run, error: Exception) -> None:
    """Lets the run's other processes know of an error.

    Raises:
        InterruptedRunError: it says no more than that one of them was killed: the run can be gone on with.
    """
    if ranks.is_peer_loss(cfg.run_id, error):
        say(f"process {ranks.rank()} has lost another one: {error}", sys.stderr)
        signals.stop()
    ranks.report(cfg.run_id, error)


def say(text: str, to: Any = None) -> None:
    """Prints a line at once, without what must not be read by others."""
    print(redacted(text), file=to or sys.stdout, flush=True)


def _summary(written: Record) -> str:
    loss = written.eval_loss
    parts = [] if loss is None else [f"held-out loss {loss:.3f}"]
    for score in written.scores:
        error = "" if score.stderr is None else f" ± {score.stderr:.3f}"
        parts.append(f"{score.task} {score.metric} {score.value:.3f}{error}")
    return ", ".join(parts)
