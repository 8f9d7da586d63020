"""One process at a time works on a run: a lease file with a heartbeat, and a note of how far the run is.

The lease is filelock's SoftFileLease, in the run's hidden workspace. The lease of a process that has died on this
machine is taken over at once, any other when its file has not changed for `run.heartbeat_timeout_seconds` on the
contender's own clock: timestamps of two machines are never compared. Nothing stops a holder that was only suspended; it
learns at its next heartbeat, and before it replaces a record, that the run is no longer its own.
"""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

LEASE, PROGRESS = "lease", "progress.json"  # in the workspace
HEARTBEATS = 6  # within the timeout


class LeaseLostError(RuntimeError):
    """Another process has taken the run over, because this one sent no heartbeat for too long."""

    def __str__(self) -> str:
        return "another process took this run over and continues it"


@dataclass(frozen=True)
class Holder:
    """The process that holds the lease of a run, or held it when it died.

    Attributes:
        host, pid: of the process.
        since: when it took the run, in seconds since 1970.
        beat: when it last sent a heartbeat, in seconds since 1970.
        alive: False for a process of this machine that is gone; None where only waiting can tell.
        progress: phase, step, num_steps and seconds_left, as far as known.
    """

    host: str
    pid: int
    since: float
    beat: float
    alive: bool | None
    progress: dict[str, Any]


def holder(workspace: Path) -> Holder | None:
    """The process that holds a run's lease; None if there is no lease, or it is just being written."""
    path = workspace / LEASE
    owner = SoftFileLease(path).owner
    try:
        beat = path.stat().st_mtime
        note = json.loads((workspace / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the note is being written
        beat, note = time.time(), {}
    if owner is None:
        return None
    host = owner.hostname.partition("?")[0]  # filelock appends the PID namespace of a container
    gone = host == socket.gethostname() and not psutil.pid_exists(owner.pid)
    return Holder(host, owner.pid, note.pop("since", beat), beat, False if gone else None, note)


def is_held(workspace: Path) -> bool:
    """True if a run has a lease whose holder may be alive."""
    found = holder(workspace)
    return (workspace / LEASE).exists() if found is None else found.alive is not False


class Lease:
    """The lease of one run.

    Args:
        workspace: the run's hidden folder, made when the lease is acquired.
        seconds: without a heartbeat after which a holder is presumed dead; equal for all that contend for the run.
    """

    def __init__(self, workspace: Path, seconds: float) -> None:
        self._workspace, self._interval = workspace, seconds / HEARTBEATS
        self._lock = SoftFileLease(
            workspace / LEASE, lease_duration=seconds, heartbeat_interval=self._interval, thread_local=False
        )
        self._note: dict[str, Any] = {}
        self._noted = 0.0

    def acquire(self, wait: bool = False) -> bool:
        """Takes the run if nobody holds it; with `wait`, as soon as nobody does. Returns whether it was taken.

        Raises:
            ValueError: the holder was started with another heartbeat timeout.
        """
        try:
            while not self._lock.is_locked:
                with suppress(FileNotFoundError):  # the holder has ended, and just taken the workspace away
                    self._workspace.mkdir(parents=True, exist_ok=True)
                    self._lock.acquire(timeout=-1 if wait else 0, poll_interval=min(1.0, self._interval))
        except Timeout:
            return False
        except LeaseSettingsMismatch:
            raise ValueError(
                "the process that holds this run has another run.heartbeat_timeout_seconds; "
                "give this command the same value"
            ) from None
        self._note = {"since": time.time()}
        self.tell()
        return True

    def tell(self, **progress: Any) -> None:
        """Notes how far the run is for `python -m bench.status`: a new phase at once, steps once a heartbeat."""
        self._note |= progress
        if "step" in progress and time.monotonic() - self._noted < self._interval:
            return
        self._noted = time.monotonic()
        with suppress(OSError):  # a full disk: status shows less
            (self._workspace / PROGRESS).write_text(json.dumps(self._note), encoding="utf-8")

    def raise_if_lost(self) -> None:
        """Raises LeaseLostError if the heartbeat thread saw a takeover; reads no file."""
        if self._lock.compromise is not None:
            raise LeaseLostError

    def confirm(self) -> None:
        """Raises LeaseLostError if the lease file names another process, or none."""
        self.raise_if_lost()
        for pause in (0.0, 0.2):  # a contender that looks whether a lease is stale moves its file aside for a moment
            time.sleep(pause)
            owner = self._lock.owner
            if owner is not None and owner.token == self._lock.token:
                return
        raise LeaseLostError

    def release(self) -> None:
        """Ends the heartbeat and frees the run, unless another process has it by now."""
        with suppress(OSError):
            if self._lock.compromise is None:
                (self._workspace / PROGRESS).unlink()
        self._lock.release()
