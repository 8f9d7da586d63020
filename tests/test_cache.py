import json
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
import torch

from bench.cache import main
from bench.process.store import Cache, clear, entries, evict


@pytest.fixture
def cache(tmp_path):
    return Cache(enabled=True, dir=tmp_path / "cache", max_gb=1.0)


def entry(seed=0, size=100):
    tensors = {"a": torch.randn(size, 3, generator=torch.Generator().manual_seed(seed))}
    return Made(tensors, {"loss": 1.25, "names": ["x"]})


class Made(NamedTuple):
    tensors: dict
    facts: dict

    def to_entry(self):
        return tuple(self)

    @classmethod
    def from_entry(cls, tensors, facts):
        return cls(tensors, facts)


def fetch(cache, key, title, compute):
    return cache.fetch(key, title, compute, Made)


class Counted:
    def __init__(self, made):
        self.made, self.calls = made, 0

    def __call__(self):
        self.calls += 1
        return self.made


def test_an_entry_is_computed_once_and_read_back_bit_by_bit(cache):
    compute = Counted(entry())
    (tensors, facts), read = fetch(cache, "key", "title", compute)
    (again, facts_again), read_again = fetch(cache, "key", "title", compute)
    assert (read, read_again, compute.calls) == (False, True, 1)
    assert torch.equal(again["a"], tensors["a"])
    assert facts_again == facts == {"loss": 1.25, "names": ["x"]}


def test_another_key_is_another_entry(cache):
    fetch(cache, "one", "title", Counted(entry(1)))
    (tensors, _), read = fetch(cache, "two", "title", Counted(entry(2)))
    assert not read
    assert torch.equal(tensors["a"], entry(2)[0]["a"])


def test_switched_off_it_neither_reads_nor_writes(cache, tmp_path):
    fetch(cache, "key", "title", Counted(entry(1)))
    off, compute = Cache(enabled=False, dir=cache.dir, max_gb=1.0), Counted(entry(2))
    (tensors, _), read = fetch(off, "key", "title", compute)
    assert (read, compute.calls) == (False, 1)
    assert torch.equal(tensors["a"], entry(2)[0]["a"])
    fetch(Cache(enabled=False, dir=tmp_path / "never", max_gb=1.0), "key", "title", compute)
    assert not (tmp_path / "never").exists()


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-20])


def empty(path):
    path.write_bytes(b"")


def other_metadata(path):
    from safetensors.torch import load_file, save_file

    save_file(load_file(path), path, metadata={"format": "pt"})


@pytest.mark.parametrize("spoil", [flip_a_bit, cut_short, empty, other_metadata])
def test_a_corrupt_entry_is_computed_again_with_a_warning(cache, spoil):
    fetch(cache, "key", "title", Counted(entry()))
    spoil(cache.folder / "key.safetensors")
    with pytest.warns(UserWarning, match=r"key\.safetensors is corrupt; it is computed again"):
        (tensors, _), read = fetch(cache, "key", "title", Counted(entry()))
    assert not read
    assert torch.equal(tensors["a"], entry()[0]["a"])
    assert fetch(cache, "key", "title", Counted(entry()))[1]


def test_a_folder_that_cannot_be_written_costs_the_computation_only(tmp_path):
    (tmp_path / "file").write_text("")
    cache = Cache(enabled=True, dir=tmp_path / "file" / "cache", max_gb=1.0)
    with pytest.warns(UserWarning, match="cannot be written .*; going on without it"):
        (tensors, _), read = fetch(cache, "key", "title", Counted(entry()))
    assert not read
    assert torch.equal(tensors["a"], entry()[0]["a"])


def test_an_entry_that_cannot_be_written_whole_leaves_nothing_half_written(cache, monkeypatch):
    monkeypatch.setattr("pathlib.Path.replace", full_disk)
    with pytest.warns(UserWarning, match="No space left on device.*going on without it"):
        (tensors, _), _ = fetch(cache, "key", "title", Counted(entry()))
    assert torch.equal(tensors["a"], entry()[0]["a"])
    assert [path.name for path in cache.folder.iterdir()] == ["key.lock"]


def test_a_failed_computation_leaves_nothing(cache):
    def fail():
        raise KeyError("x")

    with pytest.raises(KeyError):
        fetch(cache, "key", "title", fail)
    assert not entries(cache.folder)
    assert not fetch(cache, "key", "title", Counted(entry()))[1]


def slow(folder, order):
    def compute():
        order.append("begun")
        time.sleep(0.5)
        order.append("ended")
        return entry()

    (tensors, _), read = fetch(Cache(enabled=True, dir=folder, max_gb=1.0), "key", "title", compute)
    order.append(("read" if read else "computed", tensors["a"].sum().item()))


def test_of_two_processes_one_computes_and_the_other_waits_and_reads(tmp_path):
    with multiprocessing.get_context("fork").Manager() as manager:
        order = manager.list()
        processes = [multiprocessing.get_context("fork").Process(target=slow, args=(tmp_path, order)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(30)
        found = list(order)
    total = entry()[0]["a"].sum().item()
    assert found[:2] == ["begun", "ended"]
    assert sorted(found[2:]) == [("computed", total), ("read", total)]


def fill(cache, *keys):
    for age, key in enumerate(reversed(keys)):
        fetch(cache, key, f"title of {key}", Counted(entry()))
        when = time.time() - 100 * (age + 1)
        os.utime(cache.folder / f"{key}.safetensors", (when, when))


def names(cache):
    return [listed.path.stem for listed in entries(cache.folder)]


def test_the_entries_not_used_for_longest_make_room(cache):
    fill(cache, "oldest", "older", "old")
    fetch(cache, "oldest", "title", Counted(entry()))  # used again: now the newest
    size = entries(cache.folder)[0].num_bytes
    assert [path.stem for path in evict(cache.folder, 2 * size)] == ["older"]
    assert names(cache) == ["oldest", "old"]


def test_a_full_cache_keeps_the_newest_entry_and_gives_up_the_others(tmp_path):
    cache = Cache(enabled=True, dir=tmp_path, max_gb=3e-6)  # 3 kB; an entry takes about 1.5
    fill(cache, "one", "two")
    fetch(cache, "three", "title", Counted(entry()))
    assert names(cache) == ["three", "two"]


def test_an_entry_larger_than_the_whole_cache_is_not_kept(tmp_path):
    cache = Cache(enabled=True, dir=tmp_path, max_gb=1e-6)
    with pytest.warns(UserWarning, match=r"more than cache\.max_gb"):
        fetch(cache, "key", "title", Counted(entry()))
    assert not names(cache)


def test_the_command_lists_and_clears(cache, capsys):
    fill(cache, "one", "two")
    assert main(["--dir", str(cache.folder)]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[0].startswith("two")
    assert "title of two" in listed[0]
    assert listed[-1].startswith("2 entries, ")
    assert main(["--dir", str(cache.folder), "--clear"]) == 0
    assert capsys.readouterr().out.startswith("2 entries deleted")
    assert not list(cache.folder.iterdir())
    assert clear(cache.folder / "nowhere") == 0


def test_a_listing_says_which_entry_is_corrupt(cache, capsys):
    fill(cache, "one")
    empty(cache.folder / "one.safetensors")
    main(["--dir", str(cache.folder)])
    assert "corrupt" in capsys.readouterr().out


def test_the_metadata_hold_facts_and_checksum(cache):
    from safetensors import safe_open

    fetch(cache, "key", "a title", Counted(entry()))
    with safe_open(cache.folder / "key.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["title"] == "a title"
    assert json.loads(metadata["facts"])["loss"] == 1.25
    assert len(metadata["sha256"]) == 64


def filled(cache, key, size=2000, calls=None):
    def fill(to):
        time.sleep(0.05)
        (to / "within").mkdir()
        (to / "within" / "file").write_bytes(bytes(size))
        if calls is not None:
            calls.append(key)

    with cache.folder_of(key, f"title of {key}", size, fill) as folder:
        return (folder / "within" / "file").read_bytes() == bytes(size)


def test_a_folder_that_several_need_at_once_is_filled_once(cache):
    calls = []
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: filled(cache, "folder", calls=calls), range(4)))
    assert calls == ["folder"]


def test_a_folder_is_counted_listed_evicted_and_cleared_as_a_file_is(tmp_path, capsys):
    cache = Cache(enabled=True, dir=tmp_path, max_gb=6e-6)  # 6 kB
    fill(cache, "file")
    filled(cache, "one")
    filled(cache, "two")
    os.utime(cache.folder / "one", (1e9, 1e9))
    main(["--dir", str(cache.folder)])
    listed = capsys.readouterr().out
    assert "title of one" in listed
    assert listed.splitlines()[-1].startswith("3 entries, 0.0 MB")
    filled(cache, "three")
    assert sorted(names(cache)) == ["file", "three", "two"]  # each takes 1.5 to 2.2 kB, and "one" is the oldest
    assert clear(cache.folder) == 3
    assert not list(cache.folder.iterdir())


def test_a_folder_that_cannot_be_written_is_made_for_the_moment(cache, monkeypatch):
    monkeypatch.setattr("bench.process.store.write_whole_folder", full_disk)
    with pytest.warns(UserWarning, match="No space left on device.*going on without it"):
        assert filled(cache, "folder")
    assert names(cache) == []


def full_disk(*_):
    raise OSError(28, "No space left on device")
