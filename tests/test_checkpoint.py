import json
import shutil

import pytest

from bench.runs.checkpoint import SEAL, ChangedDataError, Checkpointing, Checkpoints

STAMP = {"code": "c", "stack": "s", "num_processes": 1, "data": "d", "model": "m", "tokenizer": "t"}


def checkpoints(root, **changed):
    return Checkpoints(root / "run" / "checkpoints", Checkpointing(minutes=5, steps=None, keep=2), STAMP | changed)


def saved(root, *steps):
    """What the Trainer leaves, sealed."""
    found = checkpoints(root)
    for step in steps:
        folder = found.folder / f"checkpoint-{step}"
        (folder / "deeper").mkdir(parents=True)
        (folder / "moments.bin").write_bytes(bytes(range(200)))
        (folder / "deeper" / "shard").write_bytes(b"shard")
        found.seal(step, {"curve": [{"step": step}]})
    return found


def names(found):
    return sorted(path.name for path in found.folder.iterdir())


def test_the_newest_is_found_with_its_journal_and_the_oldest_go(tmp_path):
    found = saved(tmp_path, 5, 10, 15)
    newest = found.newest()
    assert (newest.step, newest.path.name) == (15, "checkpoint-15")
    assert newest.journal == {"curve": [{"step": 15}]}
    assert names(found) == ["checkpoint-10", "checkpoint-15"]


def test_without_one_there_is_none(tmp_path):
    assert checkpoints(tmp_path).newest() is None


def remove(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def link(path):
    """The same content, in a place that others can write to."""
    elsewhere = next(one for one in path.parents if one.name == "run").parent / "elsewhere"
    shutil.copy(path, elsewhere)
    path.unlink()
    path.symlink_to(elsewhere)


@pytest.mark.parametrize(
    ("name", "harm"), [("moments.bin", cut), ("deeper/shard", flip), ("journal.json", link), (SEAL, remove)]
)
def test_one_that_is_not_what_was_written_gives_way_to_the_one_before(tmp_path, capsys, name, harm):
    found = saved(tmp_path, 5, 10)
    harm(found.folder / "checkpoint-10" / name)
    newest = found.newest()
    assert newest.step == 5
    assert "checkpoint-10 is left out, not whole" in capsys.readouterr().err
    assert names(found) == ["checkpoint-5"]


def test_a_file_that_was_added_makes_it_another(tmp_path):
    found = saved(tmp_path, 5)
    (found.folder / "checkpoint-5" / "pytorch_model.bin").write_bytes(b"planted")
    assert found.newest() is None


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"files": 3}', b"\xff", b"[" * 100_000])
def test_a_seal_that_is_none_is_no_seal(tmp_path, content):
    found = saved(tmp_path, 5)
    (found.folder / "checkpoint-5" / SEAL).write_bytes(content)
    assert found.newest() is None


def test_the_seal_of_another_step_does_not_count(tmp_path):
    found = saved(tmp_path, 5)
    (found.folder / "checkpoint-5").rename(found.folder / "checkpoint-50")
    assert found.newest() is None


@pytest.mark.parametrize("name", ["data", "model", "tokenizer"])
def test_other_data_than_it_was_begun_with_is_refused(tmp_path, name):
    saved(tmp_path, 5)
    with pytest.raises(ChangedDataError, match=f"^{name} changed since this run was begun"):
        checkpoints(tmp_path, **{name: "other"}).newest()
    assert saved(tmp_path / "again", 5).newest() is not None  # and stays, for when the data is back


@pytest.mark.parametrize("name", ["code", "stack", "num_processes"])
def test_what_another_version_made_is_begun_anew(tmp_path, capsys, name):
    saved(tmp_path, 5)
    assert checkpoints(tmp_path, **{name: "other"}).newest() is None
    assert f"made with another {name}" in capsys.readouterr().err


def test_a_partial_one_is_discarded(tmp_path):
    found = saved(tmp_path, 5)
    (found.folder / "checkpoint-10").mkdir()
    (found.folder / "checkpoint-10" / "adapter.safetensors").write_bytes(b"")
    assert found.newest().step == 5
    assert names(found) == ["checkpoint-5"]


@pytest.mark.parametrize(
    ("settings", "step", "minutes", "due"),
    [
        ({"steps": 10}, 20, 0, True), ({"steps": 10}, 21, 99, False), ({"minutes": 5}, 21, 5, True),
        ({"minutes": 5}, 20, 4.9, False), ({"minutes": 0}, 1, 0, True),
    ],
)  # fmt: skip
def test_one_is_due_by_steps_or_else_by_minutes_and_at_the_end(settings, step, minutes, due):
    assert (
        Checkpointing(**{"minutes": 5, "steps": None, "keep": 2} | settings).due(step, last=False, minutes=minutes)
        is due
    )
    assert Checkpointing(**{"minutes": 5, "steps": None, "keep": 2} | settings).due(step, last=True, minutes=minutes)


def test_a_seal_names_every_file(tmp_path):
    found = saved(tmp_path, 5)
    seal = json.loads((found.folder / "checkpoint-5" / SEAL).read_text())
    assert seal["files"].keys() == {"moments.bin", "deeper/shard", "journal.json"}
