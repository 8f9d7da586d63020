import json
import subprocess
import sys

from bench.measure import Row
from bench.record import COMPLETED, FAILED, Record
from bench.track import Track, Tracker

SCORE = {"task": "gsm_tiny", "metric": "exact_match", "value": 0.25, "stderr": 0.1, "num_examples": 4}


def a_record(status=COMPLETED):
    record = Record("hu-1", status, "LoRA", {}, {}, {}, scores=[SCORE])
    record.initialization = {"num_trainable": 12, "logit_change": 0.5, "calibration": None}
    return record


def tracked(folder, status=COMPLETED):
    with Tracker(Track("offline", "p"), folder, "hu-1", "study", {"seed": 3}) as tracker:
        tracker.log({}, [Row(0, "all", "cosine", 0.5), Row(0, "layers.0.q_proj", "cosine", 0.1)])
        for step in (1, 2):
            tracker.log({"step": step, "loss": 3.0 - step, "learning_rate": 0.1}, [])
        tracker.finish(a_record(status))
    return tracker.sync_path


def inspected(folder, *arguments):
    """The offline run as W&B's own reader sees it."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *arguments, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]


def test_an_offline_run_holds_the_curve_the_alignment_the_scores_and_the_configuration(tmp_path):
    text = json.dumps(inspected(tracked(tmp_path)))
    rows = [row for row in inspected(tracked(tmp_path)) if row.get("type") == "history"]
    losses = [float(value) for row in rows for key, value in _items(row) if key == "train/loss"]
    cosines = [float(value) for row in rows for key, value in _items(row) if key == "alignment/cosine"]
    assert losses == [2.0, 1.0]
    assert cosines == [0.5]
    assert "score/gsm_tiny/exact_match" in text
    assert "initialization/num_trainable" in text
    assert '"seed"' in text or "seed" in text


def _items(row):
    for value in row.values():
        if isinstance(value, dict):
            yield from value.items()
            yield from _items(value)


def test_two_runs_in_one_process_do_not_mix(tmp_path):
    one, two = tracked(tmp_path / "a", FAILED), tracked(tmp_path / "b")
    assert one != two
    assert one.is_dir()
    assert two.is_dir()


def test_track_none_writes_nothing(tmp_path):
    with Tracker(Track("none", "p"), tmp_path / "study", "hu-1", "study", {}) as tracker:
        tracker.log({"step": 1, "loss": 1.0}, [])
        tracker.finish(a_record())
    assert tracker.sync_path is None
    assert list(tmp_path.iterdir()) == []
