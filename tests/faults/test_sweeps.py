"""Sweeps at once, and sweeps over data that has changed."""

import json
import shutil
import subprocess
import sys
import time

import pytest
from conftest import SHORT, composed_run
from faults import kinds
from faults.harness import ended, folder_of, killed, started

from bench.model.load import EMBEDDED
from bench.runs.record import read_record


def sweep(root, *overrides):
    command = ["-m", "method=hu,lora_ga", "seed=0,1", *SHORT, f"results_dir={root}", "study=mine", *overrides]
    return subprocess.Popen(
        [sys.executable, "-m", "bench.run", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.faults
def test_two_sweeps_at_once_do_each_run_once_and_both_end_well(tmp_path):
    both = [sweep(tmp_path) for _ in range(2)]
    printed = [one.communicate(timeout=300) for one in both]
    assert [one.returncode for one in both] == [0, 0], printed
    done = [line for out, _ in printed for line in out.splitlines() if "eval loss" in line]
    assert len(done) == 4
    assert len({line.split()[1] for line in done}) == 4
    for folder in tmp_path.glob("mine/*-*/"):
        assert len(read_record(folder).attempts) == 1
    assert not list(tmp_path.glob("mine/.*-*"))


def test_a_run_that_another_process_does_is_left_to_it(tmp_path):
    cfg = composed_run(*SHORT, "method=hu", f"results_dir={tmp_path}")
    first = started(cfg, kinds.sleep_after_step, 2, 30)
    while not list(folder_of(cfg).workspace.glob("lease")):
        time.sleep(0.1)
    assert ended(cfg) == 3
    first.kill()
    first.join()
    assert ended(cfg) == 0
    assert len(read_record(folder_of(cfg).path).attempts) == 2


def arithmetic(root, answer=7):
    """A local folder of GSM8K's form."""
    folder = root / "data" / "gsm8k"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f'{{"question": "w{i % 20} w1 ?", "answer": "w2 #### {answer}"}}' for i in range(300)]
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    return f"data.root={root / 'data'}"


@pytest.fixture
def local(tmp_path):
    """Composes a run of a local model on local data, as both are just now."""
    data, model = arithmetic(tmp_path), tmp_path / "model"
    shutil.copytree(EMBEDDED / "tiny_llama", model)

    def composed():
        return composed_run(
            *SHORT, "train.max_steps=8", "checkpoint.steps=3", "task=gsm8k", "task.validation_samples=20",
            f"results_dir={tmp_path / 'results'}", data, "model=local", f"model.path={model}",
        )  # fmt: skip

    return composed


def test_a_dataset_that_changed_between_start_and_resume_is_refused_until_it_is_back(tmp_path, local):
    cfg = local()
    killed(cfg, kinds.kill_after_step, 5)
    arithmetic(tmp_path, answer=8)
    other = local()
    assert other.run_id != cfg.run_id
    assert ended(other) == 1
    assert not folder_of(other).path.exists()
    arithmetic(tmp_path)
    assert ended(local()) == 0
    assert read_record(folder_of(cfg).path).attempts[-1]["from_step"] == 3


def test_a_tokenizer_that_was_swapped_is_refused(tmp_path, local):
    cfg = local()
    killed(cfg, kinds.kill_after_step, 5)
    tokenizer = tmp_path / "model" / "tokenizer.json"
    before = tokenizer.read_text()
    content = json.loads(before)
    words = content["model"]["vocab"]
    first, second = list(words)[300:302]
    words[first], words[second] = words[second], words[first]
    tokenizer.write_text(json.dumps(content))
    assert ended(local()) == 1
    assert not folder_of(local()).path.exists()
    tokenizer.write_text(before)
    assert ended(local()) == 0
    assert read_record(folder_of(cfg).path).attempts[-1]["from_step"] == 3
