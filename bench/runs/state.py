"""The state of a run, told from its folder and its workspace."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.runs.folder import RunFolder, read_begun
from bench.runs.lease import Holder, holder
from bench.runs.progress import STOPPED_AT
from bench.runs.record import COMPLETED, FAILED, INTERRUPTED, Record

DONE, RECORDED, RUNNING, STALE, STOPPED, NEW = "done", "recorded", "running", "stale", "stopped", "new"
QUIET_SECONDS = 180.0  # three times the default heartbeat timeout


@dataclass(frozen=True)
class State:
    """The state of one run.

    Attributes:
        name: done; recorded: a result without its weights, as a repository keeps it; failed; running; interrupted: by
            a signal, or killed; stale: its lease was left by a process that is gone; stopped: at run.stop_at_step; new.
        record: of a failed, running, stale or interrupted run.
        holder: the process that has the run's lease, or had it when it died.
        stop: of a stopped run, the attempt that ended at `stopped_at_step` of `num_steps` with `eval_loss`.
    """

    name: str
    record: Record | None = None
    holder: Holder | None = None
    stop: Mapping[str, Any] | None = None


def state(folder: RunFolder) -> State:
    """The state of a run; a lease counts before a record, which is of an earlier attempt."""
    record, found = folder.record, holder(folder.workspace)
    if found is not None:
        alive = found.alive is not False and time.time() - found.beat < QUIET_SECONDS
        return State(RUNNING if alive else STALE, record, found)
    if record is not None and record.status == COMPLETED:
        return State(DONE if folder.holds(record) else RECORDED)  # without the record, of which a study has thousands
    if record is not None:
        return State(FAILED, record)
    if folder.workspace.is_dir():
        attempts = read_begun(folder.workspace).get("attempts", [])
        if attempts and STOPPED_AT in attempts[-1]:
            return State(STOPPED, stop=attempts[-1])
        return State(INTERRUPTED, folder.interrupted)
    return State(NEW)
