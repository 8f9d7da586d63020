import pytest
from test_record import RUN_ID, a_record

from bench.runs.attempt import held
from bench.runs.checkpoint import ChangedDataError
from bench.runs.folder import RunFolder
from bench.runs.lease import LeaseLostError
from bench.runs.record import COMPLETED, CURVE, FAILED, INTERRUPTED, read_rows


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path, "study", RUN_ID)


def test_nothing_stands_under_the_runs_name_before_it_is_closed(folder):
    with held(folder, 60, wait=False) as attempt:
        attempt.append(CURVE, [{"step": 1}])
        attempt.weights_path.write_bytes(b"weights")
        assert not folder.path.exists()
        attempt.close(a_record())
        assert folder.done
    assert not folder.workspace.exists()


def test_checkpoints_of_a_failed_run_stay_and_go_when_it_has_completed(folder):
    for status, left in ((FAILED, True), (COMPLETED, False)):
        with held(folder, 60, wait=False) as attempt:
            (folder.workspace / "checkpoints" / "checkpoint-1").mkdir(parents=True, exist_ok=True)
            attempt.weights_path.write_bytes(b"weights")
            attempt.close(a_record(status))
        assert folder.record.status == status
        assert folder.workspace.exists() is left


def test_an_interrupted_run_leaves_word_beside_its_checkpoints_only(folder):
    with held(folder, 60, wait=False) as attempt:
        attempt.interrupt(a_record(INTERRUPTED))
    assert folder.interrupted.status == INTERRUPTED
    assert folder.record is None


def test_who_has_lost_the_lease_does_not_replace_the_record(folder):
    with held(folder, 60, wait=False) as attempt:
        (folder.workspace / "lease").write_text("{}")  # another has taken over
        with pytest.raises(LeaseLostError):
            attempt.close(a_record())
        assert not folder.path.exists()


def test_a_run_begun_again_has_only_its_own_rows(folder):
    with held(folder, 60, wait=False) as attempt:
        attempt.append(CURVE, [{"step": 1}, {"step": 2}])
        attempt.interrupt(a_record(INTERRUPTED))
    with held(folder, 60, wait=False) as attempt:
        attempt.begin({"seed": 0}, {})
        attempt.append(CURVE, [{"step": 1}])
        assert read_rows(attempt.path / CURVE) == [{"step": 1}]
        assert folder.interrupted is None


def test_each_attempt_has_the_same_wandb_run_and_adds_itself_to_the_history(folder):
    ids = set()
    for number in (1, 2):
        with held(folder, 60, wait=False) as attempt:
            attempt.begin({}, {})
            ids.add(attempt.wandb_id)
            assert len(attempt.history) == number
            attempt.interrupt(a_record(INTERRUPTED))
    assert len(ids) == 1


def test_a_link_in_place_of_a_runs_folder_is_refused(tmp_path, folder):
    folder.path.parent.mkdir()
    (tmp_path / "elsewhere").mkdir()
    folder.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a link"), held(folder, 60, wait=False):
        pass


def identity(rows="a", model="m", steps=1):
    return {"task": {"datasets": {"gsm8k": {"content": {"train": rows}}}}, "model": {"content": model}, "train": steps}


PLACES = {"data.root": "a", "model.path": "m"}


@pytest.fixture
def twin(folder):
    """A run of the same cell that was begun and has a checkpoint."""
    found = RunFolder(folder.path.parents[1], "study", "hu-00000000")
    with held(found, 60, wait=False) as attempt:
        attempt.begin(identity(), PLACES)
        (found.workspace / "checkpoints").mkdir(parents=True)
    return found


@pytest.mark.parametrize(
    ("now", "changed"), [(identity(rows="b"), "gsm8k"), (identity(model="n"), "model"), (identity(steps=2), None)]
)
def test_a_run_whose_twin_was_interrupted_with_other_data_in_the_same_place_is_refused(folder, twin, now, changed):
    if changed is None:
        folder.refuse_changed_data(now, PLACES)
        return
    with pytest.raises(ChangedDataError, match=f"^{changed} changed since hu-00000000 was begun"):
        folder.refuse_changed_data(now, PLACES)


@pytest.mark.parametrize("now", [identity(rows="b"), identity(model="n")])
def test_a_twin_that_failed_or_is_running_or_has_its_data_elsewhere_blocks_no_run(folder, twin, now):
    for other in ({"data.root": "b"}, {"model.path": "n"}):
        folder.refuse_changed_data(now, PLACES | other)
    with held(twin, 60, wait=False) as attempt:
        folder.refuse_changed_data(now, PLACES)
        attempt.close(a_record(FAILED))
    assert (twin.workspace / "checkpoints").is_dir()  # a failed run keeps them
    folder.refuse_changed_data(now, PLACES)
