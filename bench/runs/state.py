"""How a run stands, by what its folder and its workspace hold."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.runs.folder import RunFolder
from bench.runs.lease import Holder, holder, is_held
from bench.runs.record import COMPLETED, FAILED, INTERRUPTED, Record

DONE, RECORDED, RUNNING, STALE, NEW = "done", "recorded", "running", "stale", "new"
QUIET_SECONDS = 180.0  # three leases of the default length


@dataclass(frozen=True)
class State:
    """One run.

    Attributes:
        name: done; recorded, a result without its weights, as a repository keeps it; failed; running; interrupted, by
            a signal; stale, its process is gone without a word; new.
        record: of what has failed or is worked on, or of an interruption.
        holder: who works on it, or did.
    """

    name: str
    record: Record | None = None
    holder: Holder | None = None


def awaited(folder: RunFolder) -> bool:
    """Whether a run has not ended and somebody, who may live, has its lease."""
    return not folder.done and is_held(folder.workspace)


def state(folder: RunFolder) -> State:
    """What a run's folders say; a lease counts before a record, which is of an earlier attempt."""
    found = holder(folder.workspace)
    if found is not None:
        lives = found.alive is not False and time.time() - found.beat < QUIET_SECONDS
        return State(RUNNING if lives else STALE, folder.record, found)
    if folder.done:
        return State(DONE)  # without its record: ten thousand of them would take a gigabyte
    record = folder.record
    if record is not None and record.status == COMPLETED:
        return State(RECORDED)
    if record is not None and record.status == FAILED:
        return State(FAILED, record)
    if folder.workspace.is_dir():
        return State(INTERRUPTED, folder.interrupted)
    return State(NEW)
