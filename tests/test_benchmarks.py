"""What the benchmarks compare is what they say: generated rows, floors; and the script for a GPU runs."""

import importlib
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"


def words(text):
    """Their number."""
    return len(text.split())


@pytest.fixture
def benchmark(monkeypatch):
    """A module of tests/benchmarks by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_generated_rows_are_as_many_and_as_long_as_the_real_ones(benchmark):
    smollm2 = benchmark("smollm2")
    folder = smollm2._generated()
    rows = {path.parent.name: path.read_text().splitlines() for path in folder.glob("*/train.jsonl")}
    assert {name: len(found) for name, found in rows.items()} == {
        name: train for name, (train, _) in smollm2.ROWS.items()
    }
    arc, gsm, sst = ([json.loads(line) for line in rows[name]] for name in ("arc_easy", "gsm8k", "glue_sst2"))
    assert statistics.median(words(row["question"]) for row in arc) == smollm2.ARC_QUESTION[5]
    assert statistics.median(words(text) for row in arc for text in row["choices"]["text"]) == smollm2.ARC_CHOICE[5]
    assert statistics.median(words(row["question"]) for row in gsm) == smollm2.GSM_QUESTION[5]
    assert statistics.median(words(row["answer"]) for row in gsm) == pytest.approx(smollm2.GSM_ANSWER[5] + 2, abs=1)
    assert statistics.median(words(row["sentence"]) for row in sst) == smollm2.SST_SENTENCE[5]


def test_a_floor_counts_forward_and_input_gradients_of_the_adapted_layers_and_one_head(benchmark):
    from models import tiny_llama

    model = tiny_llama()
    layers = benchmark("shape").target_layers(model)
    size, head = sum(layer.weight.numel() for layer in layers.values()), model.lm_head.weight.numel()
    floor = benchmark("products").floor
    assert floor(model.config, [5, 3], [2, 0], training=False).flops == 2 * (8 * size + 2 * head)
    assert floor(model.config, [5, 3], [2, 0], training=True).flops == 2 * (16 * size + 2 * head)


@pytest.mark.faults
def test_the_script_for_a_gpu_does_its_cells_on_a_tiny_model():
    script = [sys.executable, BENCHMARKS / "gpu_check.py", "--tiny"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for phase in ("load", "calibrate", "initialise", "train", "measure", "score"):
        assert done.stdout.count(f"| {phase} ") >= 3, done.stdout
    assert "export:" in done.stdout
