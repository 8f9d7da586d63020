import json
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

METHOD = """
from typing import ClassVar
import torch
from pydantic.dataclasses import dataclass
from bench.methods.base import STRICT, Factors, Layer, Method, ScalingRule, Statistic, Trainable

@dataclass(frozen=True, config=STRICT)
class RightVectors(Method):
    label: ClassVar[str] = "Right vectors"
    requires: ClassVar[frozenset[Statistic]] = frozenset({"gradient"})
    trains: ClassVar[frozenset[Trainable]] = frozenset({"lora_A", "lora_B"})
    keeps_function: ClassVar[bool] = True
    scaling: ScalingRule

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        return Factors(torch.linalg.svd(layer.gradient).Vh[: layer.r], torch.zeros(layer.weight.shape[0], layer.r))
"""


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


@pytest.fixture
def namespace(monkeypatch):
    """A module that a notebook's cells run in, as they do in __main__."""
    module = types.ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", module)
    monkeypatch.chdir(ROOT / "notebooks")  # where Jupyter starts
    plt.switch_backend("agg")
    with warnings.catch_warnings():
        yield module.__dict__
    plt.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs(path, namespace):
    before = {*(ROOT / "results").rglob("record.json")}
    for place, cell in enumerate(cells(path, "code")):
        exec(compile("".join(cell["source"]), f"{path.name}, code cell {place}", "exec"), namespace)
    assert {*(ROOT / "results").rglob("record.json")} == before
    if path.stem == "new_method":
        shown = namespace["summary"](namespace["study"])
        assert set(shown["method"]) == {"LoRA", "Right vectors"}
    assert plt.get_fignums()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_committed_without_output(path):
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(path, "code"))


def test_the_command_of_new_method_runs_a_class_from_outside_the_package(tmp_path):
    """What the notebook's last section says, short."""
    text = "".join(cells(ROOT / "notebooks" / "new_method.ipynb", "markdown")[-1]["source"])
    said = "method=reversed method._target_=right_vectors.RightVectors method.name=right_vectors".split()
    assert " ".join(said) in text
    (tmp_path / "right_vectors.py").write_text(METHOD)
    short = "train.max_steps=2 train.learning_rate=1e-3 score.limit=4 measure=none track=none study=trial".split()
    done = subprocess.run(
        [sys.executable, "-m", "bench.run", *said, *short, f"results_dir={tmp_path / 'results'}"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (record,) = (tmp_path / "results" / "trial").glob("right_vectors-*/record.json")
    assert json.loads(record.read_text())["label"] == "Right vectors"
