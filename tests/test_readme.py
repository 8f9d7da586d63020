"""What the README tells a reader to write and type is true."""

import json
import re
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from test_pages import shipped

from bench.methods.base import AdapterMethod
from bench.study.folders import CONF
from matrices import layer_of, random

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(kind, heading):
    section = README.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL).group(1)


@pytest.fixture
def my_init(monkeypatch):
    """The module that the README shows, importable as it would be in its place."""
    module = types.ModuleType("bench.methods.my_init")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(block("python", "Add a method"), module.__dict__)
    return module


def test_the_method_it_shows_is_one(my_init):
    method = my_init.MyInit()
    assert isinstance(method, AdapterMethod)
    G = random(24, 40)
    factors = method.factors(layer_of(random(24, 40, seed=1), 4, gradient=G), torch.Generator())
    assert factors.lora_A.shape == (4, 40)
    assert factors.lora_B.shape == (24, 4)


def test_the_yaml_it_shows_configures_that_method(my_init, compose):
    from bench.config import Run

    shown = yaml.safe_load(block("yaml", "Add a method"))
    assert shown["method"]["scaling"] == f"${{scaling:{my_init.MyInit().scaling}}}"
    shown["method"]["scaling"] = my_init.MyInit().scaling
    assert {k: v for k, v in shown["method"].items() if k not in ("name", "_target_")} == vars(my_init.MyInit())
    values = compose("method=hu")
    values["method"] = shown["method"]
    values["train"]["learning_rate"] = float(shown["train"]["learning_rate"])
    assert type(Run.from_config(values).method) is my_init.MyInit


def test_its_table_of_schemes_has_a_row_for_every_method_that_adds_an_adapter():
    table = README.partition("<!-- schemes -->")[2].partition("<!-- end schemes -->")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.partition(" | ")[0])}
    assert named == shipped("method") - {"full_ft", "none"}


def test_the_commits_it_names_are_those_that_made_the_stored_outputs():
    import numpy as np

    for path in (ROOT / "tests" / "parity" / "authors").glob("*.npz"):
        stored = np.load(path)
        assert f"[`{str(stored['commit'])[:7]}`]({stored['repository']})" in README


def table_row(line):
    """The cells of a row of numbers; nothing for a heading or another line."""
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    return cells if any(character.isdigit() for character in line) else []


def test_the_costs_it_states_are_those_that_were_measured():
    measured = [json.loads(path.read_text()) for path in (ROOT / "results" / "benchmarks").glob("*.json")]
    rows = {row["what"]: row for found in measured for row in found["rows"]}
    parts = next(found for found in measured if found["benchmark"] == "init_cost")["details"]["where the time goes"]
    block = README.partition("<!-- results/benchmarks -->")[2].partition("<!-- end -->")[0]
    stated = {cells[0]: cells[1:] for line in block.splitlines() if (cells := table_row(line))}
    assert stated.keys() >= parts.keys()
    for what, part in parts.items():
        assert stated.pop(what) == [f"{part['seconds']:.1f}", f"{part['share']:.0%}"]
    assert stated.keys() == {what for what, row in rows.items() if row["goal"] and "subspace" not in what}
    for what, (_, _, peer, ratio, goal) in stated.items():
        assert float(ratio) == pytest.approx(rows[what]["ratio"], abs=0.005)
        assert (peer, goal) == (rows[what]["peer_name"], rows[what]["goal"])


def test_the_dataset_and_task_it_shows_make_a_run(compose):
    from bench.config import Run

    dataset, task = re.findall(r"```yaml\n(# conf/.+?)```", README.partition("## Add a task")[2], flags=re.DOTALL)
    shown = yaml.safe_load(task)
    shown.pop("defaults")
    values = compose()
    shared = yaml.safe_load((CONF / "task" / "_base.yaml").read_text()) | {"data_root": None}
    values["task"] = shared | shown | {"datasets": {"my_data": yaml.safe_load(dataset)}}
    assert Run.from_config(values).run_id.startswith("hu-r8-my_task-tiny_llama-s0-")
