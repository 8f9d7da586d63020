"""Who works on a run: a lease with a heartbeat, so that of two sweeps on one results folder each run is done by one.

The workspace of a run holds lease.1, lease.2, ...: the highest number is the holder. A lease is made exclusively, so of
two that want the same number one gets it; it is never taken away: who takes over makes the next number, and the
holder before sees that at its next beat. Earlier leases stay until the holder gives the run free: a folder that is
listed while files come and go may show neither those nor these, but what stays it shows. Whether a holder lives is
judged without comparing the clocks of two machines: on the same machine by its process, elsewhere by whether its lease
changes while one watches.
"""

from __future__ import annotations

import json
import os
import platform
import random
import re
import signal
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_NAME = re.compile(r"lease\.(\d+)")
SIZE = 1024  # bytes of a lease: it is overwritten in place, which also works on a full disk
TRIES = 10  # to take what others are taking or giving free at this moment
BEATS = 6  # in the time after which a lease without one is stale
PARENT = "LORA_INIT_BENCH_PARENT"  # the process without which this one is to stop

_watched: dict[Path, tuple[bytes | None, float]] = {}  # what a foreign lease held when it was first seen so, and when


class LeaseLostError(RuntimeError):
    """Another process has taken the run over, because this one gave no sign for too long."""


@dataclass(frozen=True)
class Holder:
    """What a lease says; `alive` is None where only watching can tell.

    Attributes:
        host, pid: of its process.
        since, beat: seconds since 1970, by its own clock: when it took the run, and its last sign.
        progress: phase, step, num_steps, seconds_a_step and seconds_left, as far as known.
    """

    host: str
    pid: int
    since: float
    beat: float
    alive: bool | None
    progress: dict[str, Any]


def holder(workspace: Path) -> Holder | None:
    """Who works on a run, or did when it died; None where nobody has a lease."""
    newest = _newest(workspace)
    return None if newest is None else _read(newest)


def is_held(workspace: Path) -> bool:
    """Whether somebody who may live has a run, or has left a lease that cannot be read."""
    found = holder(workspace)
    return _newest(workspace) is not None if found is None else found.alive is not False


class Lease:
    """A lease on one run.

    Args:
        workspace: made where there is none.
        seconds: without a sign for so long a lease is stale.
    """

    def __init__(self, workspace: Path, seconds: float) -> None:
        self._workspace, self._seconds = workspace, seconds
        self._owner, self._since = uuid.uuid4().hex, time.time()
        self._path: Path | None = None
        self._progress: dict[str, Any] = {}
        self._lost, self._ended = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._beats = 0

    def acquire(self, wait: bool = False) -> bool:
        """Takes the run if nobody works on it; with `wait`, when nobody does any more.

        Returns:
            Whether it was taken.
        """
        while not self._try():
            if not wait:
                return False
            time.sleep(min(1.0, self._seconds / BEATS))
        return True

    def tell(self, **progress: Any) -> None:
        """What the next beat says of how far the run is."""
        self._progress |= progress

    def check(self) -> None:
        """Refuses to go on with a run that another process has.

        Raises:
            LeaseLostError: it has been taken over.
        """
        if self._lost.is_set() or not self._holds():
            self._lost.set()
            raise LeaseLostError("another process took this run over; it goes on there")

    def heed(self) -> None:
        """The same by what the heartbeat has seen, at no cost."""
        if self._lost.is_set():
            self.check()

    def release(self) -> None:
        """Ends the heartbeat and gives the run free."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if self._path is not None and self._holds():
            for lease in _leases(self._workspace):  # its own, the highest, last: until then nobody else is the holder
                lease.unlink(missing_ok=True)
        self._path = None

    def _try(self) -> bool:
        for _ in range(TRIES):
            newest = _newest(self._workspace)
            if newest is not None and not self._is_stale(newest):
                return False
            if self._make(newest):
                return True
            time.sleep(random.uniform(0.0, 0.05))  # another came between, and may have gone: look again
        return False

    def _make(self, newest: Path | None) -> bool:
        """Makes the lease after the newest one, unless the folder is no longer what it was when that was found."""
        number = 1 if newest is None else _number(newest) + 1
        path = self._workspace / f"lease.{number}"
        try:
            self._workspace.mkdir(parents=True, exist_ok=True)
            self._write_new(path)
        except (FileExistsError, FileNotFoundError):  # another was faster, or has just taken the folder away
            return False
        if _newest(self._workspace) != path or (newest is not None and not self._is_stale(newest)):
            path.unlink(missing_ok=True)
            return False
        self._path = path
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        return True

    def _write_new(self, path: Path) -> None:
        """Makes a file exclusively and, where the file system has links, with its content at once."""
        draft = path.with_name(f".{path.name}-{self._owner}")
        try:
            draft.write_bytes(self._content())
            try:
                os.link(draft, path)
            except (FileExistsError, FileNotFoundError):
                raise
            except OSError:
                with path.open("xb") as file:
                    file.write(self._content())
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)

    def _is_stale(self, path: Path) -> bool:
        try:
            content = path.read_bytes()
        except OSError:
            return False  # just given free or taken over: look again
        found = _read(path)
        if found is not None and found.alive is False:
            return True
        seen, since = _watched.get(path, (None, 0.0))  # where there are no links, a lease is empty while it is made
        if seen != content:
            _watched[path] = (content, time.monotonic())
            return False
        return time.monotonic() - since > self._seconds

    def _keep(self) -> None:
        """Renews the lease until the run has ended, is lost, or the process that asked for it is gone."""
        parent = os.environ.get(PARENT)
        while not self._ended.wait(self._seconds / BEATS):
            try:
                if not self._holds():
                    self._lost.set()
                    return
                self._beat()
            except OSError:  # the file system does not answer just now; the next beat tries again
                continue
            if parent is not None and str(os.getppid()) != parent:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def _beat(self) -> None:
        assert self._path is not None
        self._beats += 1
        with self._path.open("r+b") as file:
            file.write(self._content())
            file.flush()
            os.fsync(file.fileno())

    def _holds(self) -> bool:
        """Whether the newest lease is this one's; its number alone could have been given again."""
        if self._path is None or _newest(self._workspace) != self._path:
            return False
        try:
            return self._owner.encode() in self._path.read_bytes()
        except FileNotFoundError:
            return False

    def _content(self) -> bytes:
        told = {
            "owner": self._owner,
            "machine": machine(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": self._since,
            "beat": time.time(),
            "beats": self._beats,
            "progress": self._progress,
        }
        text = json.dumps(told)
        if len(text) >= SIZE:
            text = json.dumps(told | {"progress": {}})
        return text.encode().ljust(SIZE - 1)[: SIZE - 1] + b"\n"


def machine() -> str:
    """Identifies the running system in which process numbers mean something."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _leases(workspace: Path) -> list[Path]:
    try:
        found = [path for path in workspace.iterdir() if _NAME.fullmatch(path.name)]
    except OSError:
        return []
    return sorted(found, key=_number)


def _newest(workspace: Path) -> Path | None:
    return max(_leases(workspace), key=_number, default=None)


def _number(path: Path) -> int:
    return int(path.name.partition(".")[2])


def _read(path: Path) -> Holder | None:
    """What a lease says; None where it is being written or is torn."""
    try:
        told = json.loads(path.read_bytes())
        alive = _lives(int(told["pid"])) if told["machine"] == machine() else None
        progress = told["progress"] if isinstance(told["progress"], dict) else {}
        return Holder(str(told["host"]), int(told["pid"]), float(told["since"]), float(told["beat"]), alive, progress)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _lives(pid: int) -> bool | None:
    """Whether a process of this machine runs; None if one of this number does, which may be another by now."""
    try:
        return False if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return None
