"""A checkpoint that somebody has put a pickle into: it is never unpickled, even where its seal is forged."""

import json
import pickle

import pytest
from conftest import SHORT, composed_run
from faults import kinds
from faults.harness import ended, folder_of, killed

from bench.process.hashes import fresh_sha256
from bench.runs.checkpoint import SEAL, check_tensors_only
from bench.runs.record import COMPLETED, read_record

PICKLED = ["optimizer.pt", "scheduler.pt", "rng_state.pth"]


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_the_planted_pickle_does_what_it_should(tmp_path):
    pickle.loads(pickle.dumps(Touch(tmp_path / "mark"))).close()
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize(("name", "protocol"), [*zip(PICKLED, (0, 2, 5), strict=True)])
def test_a_pickle_under_each_name_is_refused_before_anything_is_loaded(tmp_path, name, protocol):
    (tmp_path / name).write_bytes(pickle.dumps({"state": Touch(tmp_path / "mark")}, protocol=protocol))
    with pytest.raises(ValueError, match=f"^{name} holds more than tensors and plain values, and is not loaded$"):
        check_tensors_only(tmp_path)
    assert not (tmp_path / "mark").exists()


def test_a_run_is_resumed_from_the_checkpoint_before_one_with_pickles_and_a_forged_seal(tmp_path):
    cfg = composed_run(
        *SHORT, "train.max_steps=6", "checkpoint.steps=2", "method=hu", f"results_dir={tmp_path / 'results'}"
    )
    killed(cfg, kinds.kill_after_step, 5)
    newest = folder_of(cfg).path.parent / f".{cfg.run_id}" / "checkpoints" / "checkpoint-4"
    assert newest.is_dir()
    seal = json.loads((newest / SEAL).read_text())
    for name in PICKLED:
        (newest / name).write_bytes(pickle.dumps(Touch(tmp_path / "mark")))
        seal["files"][name] = fresh_sha256(newest / name)
    (newest / SEAL).write_text(json.dumps(seal))
    assert ended(cfg) == 0
    assert not (tmp_path / "mark").exists()
    record = read_record(folder_of(cfg).path)
    assert record.status == COMPLETED
    assert [attempt.get("from_step", attempt.get("step")) for attempt in record.attempts][-1] == 2
