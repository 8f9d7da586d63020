import json
import multiprocessing
import os
import time

import pytest

from bench.runs import lease
from bench.runs.lease import Lease, LeaseLostError, holder, machine


@pytest.fixture
def workspace(tmp_path):
    return tmp_path / ".run"


def foreign(workspace, number=1, beats=0, **told):
    """A lease of another machine, whose processes cannot be looked at."""
    workspace.mkdir(exist_ok=True)
    content = {"owner": "o", "machine": "elsewhere", "host": "node7", "pid": 1, "since": 0.0, "beat": 0.0,
               "beats": beats, "progress": {}}  # fmt: skip
    (workspace / f"lease.{number}").write_text(json.dumps(content | told))


def test_one_has_it_and_another_only_when_it_is_given_free(workspace):
    first, second = Lease(workspace, 60), Lease(workspace, 60)
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()
    assert list(workspace.iterdir()) == []


def test_it_says_who_has_it_and_how_far_the_run_is(workspace):
    one = Lease(workspace, 0.3)
    assert one.acquire()
    one.tell(phase="train", step=3)
    time.sleep(0.3)
    found = holder(workspace)
    one.release()
    assert found.pid == os.getpid()
    assert found.progress == {"phase": "train", "step": 3}
    assert found.beat > found.since


def _take_and_die(workspace):
    assert Lease(workspace, 1000).acquire()
    os._exit(9)


def test_that_of_a_dead_process_of_this_machine_is_taken_over_at_once(workspace):
    process = multiprocessing.get_context("fork").Process(target=_take_and_die, args=(workspace,))
    process.start()
    process.join()
    assert holder(workspace).alive is False
    mine = Lease(workspace, 1000)
    assert mine.acquire()
    assert holder(workspace).pid == os.getpid()
    mine.release()
    assert list(workspace.iterdir()) == []


def test_that_of_another_machine_is_taken_over_when_it_has_not_changed_for_long(workspace, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(lease.time, "monotonic", lambda: now[0])
    foreign(workspace)
    mine = Lease(workspace, 60)
    assert not mine.acquire()
    now[0] = 50.0
    foreign(workspace, beats=1)
    assert not mine.acquire()
    now[0] = 100.0  # 100 s after it was first seen, 50 s after its last sign
    assert not mine.acquire()
    now[0] = 111.0
    assert mine.acquire()
    mine.release()


@pytest.mark.parametrize("hours", [-100, 100])
def test_no_clock_but_its_own_tells_it_that_a_lease_is_old(workspace, monkeypatch, hours):
    foreign(workspace, since=time.time(), beat=time.time() + 3600 * hours)
    now = time.time() + 3600 * hours
    monkeypatch.setattr(lease.time, "time", lambda: now)
    assert not Lease(workspace, 60).acquire()


def test_who_lost_it_is_told_and_does_not_take_it_back(workspace):
    first = Lease(workspace, 60)
    assert first.acquire()
    first.check()
    foreign(workspace, number=2)
    with pytest.raises(LeaseLostError):
        first.check()
    first.release()
    assert (workspace / "lease.2").exists()


def test_the_heartbeat_sees_that_it_is_lost(workspace):
    first = Lease(workspace, 0.3)
    assert first.acquire()
    first.heed()
    foreign(workspace, number=2)
    time.sleep(0.3)
    with pytest.raises(LeaseLostError):
        first.heed()
    first.release()


def test_a_number_that_was_given_again_is_not_mistaken_for_its_own(workspace):
    first = Lease(workspace, 60)
    assert first.acquire()
    (workspace / "lease.1").unlink()
    foreign(workspace, number=1)
    with pytest.raises(LeaseLostError):
        first.check()
    first.release()
    assert (workspace / "lease.1").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff\xfe", b'{"machine": 1}'])
def test_a_torn_lease_is_nobodys_for_now_and_stale_when_it_stays(workspace, monkeypatch, content):
    now = [0.0]
    monkeypatch.setattr(lease.time, "monotonic", lambda: now[0])
    workspace.mkdir()
    (workspace / "lease.1").write_bytes(content)
    assert holder(workspace) is None
    mine = Lease(workspace, 60)
    assert not mine.acquire()
    now[0] = 61.0
    assert mine.acquire()
    mine.release()


def _compete(workspace, barrier, taken):
    one = Lease(workspace, 60)
    barrier.wait()
    if one.acquire():
        taken.put(os.getpid())
    barrier.wait()  # all have tried
    one.release()


def race(workspace):
    """Eight processes try at once; how many got it."""
    context = multiprocessing.get_context("fork")
    barrier, taken = context.Barrier(8), context.SimpleQueue()
    processes = [context.Process(target=_compete, args=(workspace, barrier, taken)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = []
    while not taken.empty():
        found.append(taken.get())
    return len(found)


def test_of_many_at_once_one_takes_over_what_is_stale(workspace):
    foreign(workspace, machine=machine(), pid=2**22 + 1)
    assert race(workspace) == 1


def test_of_many_at_once_one_takes_what_nobody_has(workspace):
    """Many times: a lease that is just being made is empty for a moment where there are no links."""
    for number in range(20):
        assert race(workspace / str(number)) == 1
        assert list((workspace / str(number)).iterdir()) == []


def test_a_lease_is_there_with_its_content_or_not_at_all(workspace, monkeypatch):
    def link(draft, path):
        assert draft.stat().st_size == lease.SIZE
        raise KeyboardInterrupt  # the end, at the worst of moments

    monkeypatch.setattr(lease.os, "link", link)
    with pytest.raises(KeyboardInterrupt):
        Lease(workspace, 60).acquire()
    assert list(workspace.iterdir()) == []


def test_without_links_a_lease_is_still_exclusive(workspace, monkeypatch):
    def link(draft, path):
        raise PermissionError("this file system has no links")

    monkeypatch.setattr(lease.os, "link", link)
    first, second = Lease(workspace, 60), Lease(workspace, 60)
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert list(workspace.iterdir()) == []


def test_a_lease_that_cannot_be_read_is_somebodys_for_whom_to_wait(workspace):
    assert not lease.is_held(workspace)
    foreign(workspace)
    assert lease.is_held(workspace)
    (workspace / "lease.1").write_bytes(b"{")
    assert lease.is_held(workspace)
    foreign(workspace, machine=machine(), pid=2**22 + 1)
    assert not lease.is_held(workspace)


def test_an_empty_lease_is_being_made_and_not_stale(workspace):
    workspace.mkdir()
    (workspace / "lease.1").touch()
    assert time.monotonic() > 0.001
    assert not Lease(workspace, 0.001).acquire()


def test_a_folder_listed_while_leases_come_and_go_gives_no_second_lease(workspace, monkeypatch):
    first, second = Lease(workspace, 60), Lease(workspace, 60)
    foreign(workspace, machine=machine(), pid=2**22 + 1)
    assert first.acquire()
    (workspace / "lease.1").unlink()
    listed, torn = lease._leases, [[]]
    monkeypatch.setattr(lease, "_leases", lambda folder: torn.pop() if torn else listed(folder))
    assert not second.acquire()
    first.check()
    first.release()
    assert list(workspace.iterdir()) == []


def test_a_takeover_that_comes_too_late_takes_nothing(workspace, monkeypatch):
    """It found a stale lease; before it makes the next one another did so, gave it free, and a third began anew."""
    late, third = Lease(workspace, 60), Lease(workspace, 60)
    foreign(workspace)

    def meanwhile(self, path):
        monkeypatch.undo()
        path.unlink()
        assert third.acquire()
        return True

    monkeypatch.setattr(Lease, "_is_stale", meanwhile)
    assert not late.acquire()
    third.check()
    third.release()
    assert list(workspace.iterdir()) == []


def test_a_lease_has_the_same_size_at_every_beat(workspace):
    one = Lease(workspace, 60)
    one.tell(phase="train" * 1000)
    assert one.acquire()
    assert (workspace / "lease.1").stat().st_size == lease.SIZE
    assert holder(workspace).progress == {}
    one.release()
