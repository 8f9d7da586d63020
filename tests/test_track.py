import json
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
from records import make_record

from bench.runs.record import COMPLETED, FAILED
from bench.runs.tracking import Track, Tracker
from bench.train.probe import Row

SCORE = {"task": "gsm_tiny", "metric": "exact_match", "value": 0.25, "stderr": 0.1, "num_examples": 4}
KEY = "0123456789abcdef" * 2 + "01234567"


def a_tracker(folder, mode="offline", wandb_id=None, config=None, **others):
    about = {"run_id": "hu-1", "study": "study", "trains": True, "tags": ["hu", "r8"], "results_dir": folder, **others}
    run = SimpleNamespace(track=Track(mode, "p"), to_dict=lambda: config or {"seed": 3}, **about)
    return Tracker(run, wandb_id or uuid.uuid4().hex)


def a_record(status=COMPLETED):
    record = make_record("hu-1", status, "LoRA", {}, {}, {}, scores=[SCORE])
    record.initialization = {"num_trainable": 12, "num_head": 0, "logit_change": 0.5, "calibration": None}
    record.training = {"loss": 1.0, "eval_loss": 2.5}
    record.retention = {"text": "t", "num_tokens": 9, "loss_before": 1.0, "loss_after": 1.5}
    record.phases = {"train": {"seconds": 4.5, "peak_bytes": 7}}
    return record


@pytest.fixture(autouse=True)
def nothing_lost(monkeypatch):
    monkeypatch.setattr("bench.runs.tracking._failed", set())


def tracked(folder, status=COMPLETED, record=None, **about):
    with a_tracker(folder, **about) as tracker:
        tracker.log({}, [Row(0, "all", "cosine", 0.5), Row(0, "layers.0.q_proj", "cosine", 0.1)])
        for step, eval_loss in ((1, 2.0), (2, 2.5)):
            row = {"step": step, "loss": 3.0 - step, "eval_loss": eval_loss, "tokens": 10 * step}
            tracker.log(row, [Row(step, "all", "cosine", None)])
        tracker.finish(record or a_record(status))
    return tracker.sync_path


def inspected(folder, *arguments):
    """The offline run as W&B's own reader sees it: a record a line, or with --summary one object."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *arguments, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    return done.stdout


def of_type(folder, kind):
    rows = [json.loads(line) for line in inspected(folder).splitlines() if line.strip()]
    return [row[kind] for row in rows if row.get("type") == kind]


def whole(folder):
    return json.loads(inspected(folder, "--summary"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """W&B's folder of a completed run, tracked offline."""
    return tracked(tmp_path_factory.mktemp("tracked"), tags=["hu", "m" * 100, "hu"])


def test_an_offline_run_holds_the_curve_and_the_alignment_of_all_layers_by_step(folder):
    kept = ("train/step", "train/loss", "train/tokens", "alignment/cosine")
    rows = [row["item"] for row in of_type(folder, "history")]
    assert [{key: row[key] for key in kept if key in row} for row in rows] == [
        {"train/step": 0, "alignment/cosine": 0.5},
        {"train/step": 1, "train/loss": 2.0, "train/tokens": 10},
        {"train/step": 2, "train/loss": 1.0, "train/tokens": 20},
    ]


def test_a_run_carries_its_study_as_group_and_its_axes_as_tags(folder):
    (run,) = of_type(folder, "run")
    assert (run["run_group"], run["job_type"]) == ("study", "train")
    assert run["tags"] == ["hu", "m" * 64]  # W&B refuses a longer one


@pytest.mark.parametrize(
    ("method", "tags"),
    [
        ("hu", ["hu", "r8", "gsm_tiny", "tiny_llama", "seed 3", "lr 0.01"]),
        ("full_ft", ["full_ft", "gsm_tiny", "tiny_llama", "seed 3", "lr 0.01"]),
        ("none", ["none", "gsm_tiny", "tiny_llama"]),
    ],
)
def test_the_tags_of_a_run_are_the_axes_that_apply_to_it(compose_run, method, tags):
    assert compose_run(f"method={method}", "rank=r8", "seed=3", "train.learning_rate=0.01").tags == tags


def test_curves_and_alignment_are_drawn_against_the_training_step(folder):
    metrics = {m.get("name") or m["glob_name"]: m for m in of_type(folder, "metric")}
    for name in ("train/*", "alignment/*", "train/eval_loss", "train/tokens"):
        assert metrics[name]["step_metric"] == "train/step"
    hidden = {name for name, metric in metrics.items() if metric["options"].get("hidden")}
    assert hidden == {"train/step", "train/tokens", "train/seconds"}


def test_the_summary_holds_scores_final_losses_parameters_seconds_and_status(folder):
    found = whole(folder)
    expected = {
        "status": COMPLETED,
        "score/gsm_tiny/exact_match": 0.25,
        "score/gsm_tiny/exact_match/stderr": 0.1,
        "initialization/num_trainable": 12,
        "final/loss": 1.0,
        "final/eval_loss": 2.5,
        "retention/loss_after": 1.5,
        "seconds/train": 4.5,
        "train/eval_loss": {"min": 2.0, "last": 2.5},
    }
    assert {key: found["summary"][key] for key in expected} == expected
    assert found["config"]["seed"] == 3
    assert not list(folder.rglob("*.log"))  # W&B's own, which name folders


def test_a_failed_run_sends_which_error_and_no_text_folder_key_or_host(tmp_path, monkeypatch):
    for name, value in (("API_KEY", KEY), ("HOST", "a-host-of-mine"), ("USERNAME", "a-user-of-mine")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    local = {"results_dir": "/home/someone/results", "cache": {"dir": "/home/someone"}, "data": {"root": "data/mine"}}
    config = local | {"model": {"path": "/home/someone/llama"}, "task": {"x": ["/a/b"]}}
    record = a_record(FAILED)
    record.error = {"type": "DivergedError", "message": "in /home/someone", "step": 7, "traceback": "/home/someone"}
    folder = tracked(tmp_path, record=record, config=config, trains=False)
    (sent,) = folder.glob("*.wandb")
    local_texts = ("/home/someone", "data/mine", "/a/b", str(tmp_path), KEY, "a-host-of-mine", "a-user-of-mine")
    assert [text for text in local_texts if text.encode() in sent.read_bytes()] == []
    assert not list(folder.glob("files/*"))
    found = whole(folder)
    assert found["config"]["model"]["path"] == "llama"
    assert [found["summary"][key] for key in ("status", "error/type", "error/step")] == [FAILED, "DivergedError", 7]
    assert found["exit_code"] == 1
    assert of_type(folder, "run")[0]["job_type"] == "score"


def test_wandb_that_cannot_be_started_is_one_warning_and_no_second_wait(tmp_path, monkeypatch):
    tried = []

    def init(**given):
        tried.append(given)
        raise wandb.errors.CommError("no answer\nfor 30 s")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.warns(UserWarning, match=r"does not work.*CommError: no answer\); the record is kept$") as caught:
        folders = [tracked(tmp_path), tracked(tmp_path)]
    assert folders == [None, None]
    assert len(tried) == len(caught) == 1
    assert 0 < tried[0]["settings"].init_timeout <= 90
    assert 0 < tried[0]["settings"].finish_timeout <= 600


def test_a_server_that_refuses_is_one_warning_and_the_runs_are_tracked_offline(tmp_path, monkeypatch):
    asked, init = [], wandb.init

    def refusing(mode, **given):
        asked.append((mode, given["id"], given.get("resume")))
        if mode == "online":
            raise wandb.errors.CommError(f"connection refused, key {KEY}")
        return init(mode=mode, **given)

    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb, "init", refusing)
    with pytest.warns(UserWarning, match="cannot be reached.*tracked offline.*CommError") as caught:
        folders = [tracked(tmp_path, mode="online", wandb_id=name) for name in ("a1", "b2")]
    assert asked == [("online", "a1", "allow"), ("offline", "a1", None), ("offline", "b2", None)]
    assert all(folder.name.startswith("offline-run-") for folder in folders)
    assert len(caught) == 1
    assert KEY not in str(caught[0].message)


def test_wandb_that_stops_answering_is_one_warning_and_does_not_stop_the_run(tmp_path, monkeypatch):
    def log(*_, **__):
        raise BrokenPipeError("the service is gone")

    monkeypatch.setattr(wandb.Run, "log", log)
    with pytest.warns(UserWarning, match="does not work.*BrokenPipeError") as caught:
        tracked(tmp_path)
    assert len(caught) == 1


CHILD = """
import json, os, sys, time, warnings
sys.path.insert(0, {tests!r})
import test_track
from bench.runs import tracking
tracking.INIT_TIMEOUT, tracking.FINISH_TIMEOUT = 2.0, 2.0
port, server, signal, folder = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), test_track.Path(sys.argv[4])
os.environ |= dict(WANDB_BASE_URL=f"http://127.0.0.1:{{port}}", WANDB_API_KEY=test_track.KEY)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with test_track.a_tracker(folder, mode="online") as tracker:
        online = tracker.sync_path is None
        if signal:
            os.kill(server, signal)
        for step in range(1, 21):
            tracker.log(dict(step=step, loss=1.0), [])
        tracker.finish(test_track.a_record())
    second = test_track.tracked(folder, mode="online")
said = [str(one.message) for one in caught if str(one.message).startswith("W&B")]
print(json.dumps(dict(online=online, paths=[str(tracker.sync_path), str(second)], said=said)))
"""


@pytest.mark.parametrize(
    ("server", "sent", "began_online"),
    [("silent", 0, False), pytest.param("answering", signal.SIGSTOP, True, marks=pytest.mark.faults)],
    ids=["never answers", "falls silent"],
)
def test_a_server_that_is_lost_costs_a_bounded_wait_and_the_rows_are_kept(tmp_path, server, sent, began_online):
    here = Path(__file__).parent
    serve = [sys.executable, str(here / "wandb_server.py"), server]
    serving = subprocess.Popen(serve, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        given = [serving.stdout.readline().strip(), str(serving.pid), str(int(sent)), str(tmp_path)]
        child = [sys.executable, "-c", CHILD.format(tests=str(here)), *given]
        done = subprocess.run(child, capture_output=True, text=True, check=True, timeout=120, stdin=subprocess.DEVNULL)
    finally:
        serving.kill()
        serving.communicate()
    found = json.loads(done.stdout)
    assert found["online"] == began_online, found
    assert len(found["said"]) == 1
    assert "tracked offline" in found["said"][0]
    first, second = (Path(path) for path in found["paths"])
    assert second.name.startswith("offline-run-")
    assert [row["item"]["train/step"] for row in of_type(first, "history")] == list(range(1, 21))
    assert KEY not in done.stdout + done.stderr
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_run_that_is_resumed_goes_on_under_the_same_id(tmp_path):
    folders = []
    for step in (1, 2):
        with a_tracker(tmp_path, wandb_id="a1b2c3") as tracker:
            tracker.log({"step": step, "loss": 1.0}, [])
        folders.append(tracker.sync_path)
        time.sleep(1.1)  # W&B names the folder by the second
    assert all(folder.name.endswith("-a1b2c3") for folder in folders)
    assert [row["item"]["train/step"] for folder in folders for row in of_type(folder, "history")] == [1, 2]


def test_track_none_writes_nothing(tmp_path):
    assert tracked(tmp_path / "study", mode="none") is None
    assert list(tmp_path.iterdir()) == []
