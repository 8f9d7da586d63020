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


@pytest.mark.parametrize(
    ("name", "harmed"),
    [
        ("moments.bin", lambda content: content[:-1]),
        ("deeper/shard", lambda content: content.replace(b"s", b"t", 1)),
        ("added.bin", lambda content: b"planted"),
        (SEAL, lambda content: b"[]"),
        (SEAL, lambda content: content.replace(b'{"step": 10', b'{"step": 11')),
        (SEAL, None),
    ],
    ids=["cut", "another byte", "a file more", "no seal", "a seal of another step", "without a seal"],
)
def test_one_that_is_not_what_was_written_gives_way_to_the_one_before(tmp_path, capsys, name, harmed):
    found = saved(tmp_path, 5, 10)
    path = found.folder / "checkpoint-10" / name
    if harmed is None:
        path.unlink()
    else:
        path.write_bytes(harmed(path.read_bytes() if path.exists() else b""))
    newest = found.newest()
    assert newest.step == 5
    assert "checkpoint-10 is left out, not whole" in capsys.readouterr().err
    assert names(found) == ["checkpoint-5"]


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


@pytest.mark.parametrize(
    ("settings", "step", "minutes", "due"),
    [
        ({"steps": 10}, 20, 0, True), ({"steps": 10}, 21, 99, False), ({"minutes": 5}, 21, 5, True),
        ({"minutes": 5}, 20, 4.9, False), ({"minutes": 0}, 1, 0, True),
    ],
)  # fmt: skip
def test_one_is_due_by_steps_or_else_by_minutes_and_at_the_end(settings, step, minutes, due):
    chosen = Checkpointing(**{"minutes": 5, "steps": None, "keep": 2} | settings)
    assert chosen.due(step, last=False, minutes=minutes) is due
    assert chosen.due(step, last=True, minutes=minutes)
