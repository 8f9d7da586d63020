"""The state of a run, told from its folder and its workspace."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.runs.folder import RunFolder
from bench.runs.lease import Holder, holder
from bench.runs.record import COMPLETED, FAILED, INTERRUPTED, Record

DONE, RECORDED, RUNNING, STALE, NEW = "done", "recorded", "running", "stale", "new"
QUIET_SECONDS = 180.0  # three times the default heartbeat timeout


@dataclass(frozen=True)
class State:
    """The state of one run.

    Attributes:
        name: done; recorded: a result without its weights, as a repository keeps it; failed; running; interrupted: by
            a signal, or killed; stale: its lease was left by a process that is gone; new.
        record: of a failed, running, stale or interrupted run.
        holder: the process that has the run's lease, or had it when it died.
    """

    name: str
    record: Record | None = None
    holder: Holder | None = None


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
        return State(INTERRUPTED, folder.interrupted)
    return State(NEW)
