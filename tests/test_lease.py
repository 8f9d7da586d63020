import multiprocessing
import os
import signal
import socket
import time

import pytest

from bench.runs.lease import LEASE, PROGRESS, Lease, LeaseLostError, holder, is_held


@pytest.fixture
def workspace(tmp_path):
    return tmp_path / ".run"


def foreign(workspace, host="node7", pid=1, seconds=60.0):
    """A lease of another machine, whose processes cannot be looked at."""
    workspace.mkdir(exist_ok=True)
    (workspace / LEASE).unlink(missing_ok=True)
    (workspace / LEASE).write_text(
        f"filelock/2\npid={pid}\nhost={host}\nmode=lease\ntoken=another\nduration={float(seconds)!r}\n"
    )


def test_one_process_has_it_and_another_only_when_it_is_released(workspace):
    first, second = Lease(workspace, 60), Lease(workspace, 60)
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()
    assert list(workspace.iterdir()) == []


def test_it_says_who_has_it_and_how_far_the_run_is(workspace):
    one = Lease(workspace, 60)
    assert one.acquire()
    one.tell(phase="train")
    one.tell(step=3)  # too soon after the phase
    found = holder(workspace)
    assert (found.pid, found.host) == (os.getpid(), socket.gethostname())
    assert found.progress == {"phase": "train"}
    assert found.alive is None
    one.tell(phase="score")
    assert holder(workspace).progress == {"phase": "score", "step": 3}
    one.release()
    assert holder(workspace) is None


def _take_and_stay(workspace, taken):
    one = Lease(workspace, 1.5)
    assert one.acquire()
    taken.set()
    time.sleep(60)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_that_of_a_killed_or_a_stopped_process_is_taken_over(workspace, how):
    context = multiprocessing.get_context("fork")
    taken = context.Event()
    process = context.Process(target=_take_and_stay, args=(workspace, taken))
    process.start()
    taken.wait()
    mine = Lease(workspace, 1.5)
    assert not mine.acquire()
    os.kill(process.pid, how)
    if how == signal.SIGKILL:
        process.join()
        assert not is_held(workspace)
    assert mine.acquire(wait=True)
    assert holder(workspace).pid == os.getpid()
    mine.confirm()
    mine.release()
    process.kill()
    process.join()
    assert list(workspace.iterdir()) == []


def test_a_process_with_another_timeout_is_refused_in_one_line(workspace):
    foreign(workspace, seconds=30)
    with pytest.raises(ValueError, match=r"^the .* another run\.heartbeat_timeout_seconds; give .* the same value$"):
        Lease(workspace, 60).acquire()


def test_who_lost_it_is_told_and_does_not_take_it_back(workspace):
    first = Lease(workspace, 0.6)
    assert first.acquire()
    first.confirm()
    foreign(workspace)
    with pytest.raises(LeaseLostError):
        first.confirm()
    time.sleep(0.4)  # heartbeats are 0.1 s apart
    with pytest.raises(LeaseLostError):
        first.raise_if_lost()
    first.release()
    assert holder(workspace).host == "node7"


def test_a_lease_that_cannot_be_read_may_be_somebodys(workspace):
    assert not is_held(workspace)
    foreign(workspace)
    assert is_held(workspace)
    (workspace / PROGRESS).write_text('{"since": ')  # a note that is being written
    assert (holder(workspace).host, holder(workspace).progress) == ("node7", {})
    (workspace / LEASE).write_bytes(b"")
    assert is_held(workspace)
    assert holder(workspace) is None
    foreign(workspace, host=socket.gethostname(), pid=2**22 + 1)
    assert not is_held(workspace)
