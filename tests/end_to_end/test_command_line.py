"""The command line as a user types it: sweep, skip, failure, report."""

import json
import subprocess
import sys

SHORT = ["task=commonsense_tiny", "train.max_steps=2", "score.limit=4", "task.calibration_samples=16", "track=offline"]


def command(module, *arguments):
    words = [sys.executable, "-m", module, *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def test_a_sweep_runs_every_cell_skips_what_is_done_and_is_reported(tmp_path):
    sweep = ["-m", "method=hu,lora_sb", "rank=r4", "seed=0,1", f"results_dir={tmp_path}", "study=mine", *SHORT]
    first = command("bench.run", *sweep)
    assert first.returncode == 0, first.stderr
    assert "4 cells, 4 different runs, 0 done before" in first.stdout
    assert "[4/4] lora_sb-r4-commonsense_tiny" in first.stdout
    assert f"wandb sync {tmp_path}/mine/wandb/offline-run-*" in first.stdout
    assert len(list(tmp_path.glob("mine/wandb/offline-run-*"))) == 4
    records = {path: path.read_bytes() for path in tmp_path.glob("mine/*/record.json")}
    assert len(records) == 4

    second = command("bench.run", *sweep)
    assert "4 done before" in second.stdout
    assert {path: path.read_bytes() for path in records} == records

    report = command("bench.report", "mine", "--results-dir", str(tmp_path))
    assert report.returncode == 0, report.stderr
    assert "| LoRA " in report.stdout
    assert (tmp_path / "mine" / "figures" / "convergence.png").is_file()


def test_a_failing_run_does_not_stop_the_sweep_and_makes_its_status_nonzero(tmp_path):
    axes = ["method=hu,lora_ga", "seed=0,1", f"results_dir={tmp_path}", "study=mine"]
    done = command("bench.run", "-m", *axes, *SHORT[:-2], "task.calibration_samples=99999", "track=none")
    assert done.returncode == 1
    records = [json.loads(path.read_text()) for path in tmp_path.glob("mine/*/record.json")]
    assert len(records) == 4
    ended = {"failed": "lora_ga", "completed": "hu"}  # which asks for no calibration
    assert all(record["run_id"].startswith(ended[record["status"]]) for record in records)
    assert "2 runs failed" in done.stderr
    assert "task.calibration_samples=99999" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_read_enough_is_no_error():
    words = [sys.executable, "-m", "bench.plan", "demo"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as plan:
        plan.stdout.close()  # as `| head -0` does
        assert (plan.stderr.read(), plan.wait()) == ("", 0)
