"""A system in tables: a row of its own behind its start's, compared with LoRA without a system."""

import pytest
from records import ENVIRONMENT, a_config, a_score, make_record

from bench.report.judge.comparisons import judge
from bench.report.papers.papers import RowKey
from bench.report.read.load import load_study
from bench.report.tables.tables import summary
from bench.runs.record import write_record


def write_run(root, method, system="none", seed=0, value=0.5, **fields):
    identity = {"method": {"_target_": method}, "task": {"name": "t"}, "model": {"content": "m"}, "seed": seed}
    config, label = a_config(method, seed), method.upper()
    if system != "none":
        config["system"] = {"name": system}
        identity["system"] = {"_target_": f"bench.systems.{system}", **fields}
        label = f"{label} + {system.upper()}"
    run_id = f"{method}-{system}-{seed}-{'-'.join(map(str, fields.values()))}"
    record = make_record(run_id, "completed", label, config, identity, ENVIRONMENT)
    record.training = {"num_steps": 3, "eval_loss": 1.0}
    record.scores = [a_score(value)]
    folder = root / "study" / run_id
    folder.mkdir(parents=True)
    write_record(folder, record)
    return record


@pytest.fixture
def study(tmp_path):
    for seed in (0, 1, 2):
        for place, (method, system) in enumerate([("lora_ga", "lora_pro"), ("hu", "lora_pro"), ("lora_ga", "none")]):
            write_run(tmp_path, method, system, seed, 0.5 + 0.01 * place + 0.001 * seed, mode="full")
        write_run(tmp_path, "hu", "none", seed, 0.4 + 0.001 * seed)
    return load_study(tmp_path, "study")


def test_rows_are_called_by_both_and_stand_behind_their_start(study):
    table = summary(study)
    assert list(table["method"]) == ["HU", "HU + LORA_PRO", "LORA_GA", "LORA_GA + LORA_PRO"]
    assert not any("system" in column for column in table.columns)
    assert [cell.method for cell in study.cells] == ["hu", "hu+lora_pro", "lora_ga", "lora_ga+lora_pro"]


def test_every_row_is_compared_with_lora_without_a_system(study):
    made = judge(study.cells).comparisons
    assert {study.cells[one.second].method for one in made if one.in_family} >= {"hu"}
    against = {study.cells[one.first].method for one in made if study.cells[one.second].method == "hu"}
    assert against == {"hu+lora_pro", "lora_ga", "lora_ga+lora_pro"}


def test_a_setting_of_a_system_sets_rows_of_it_apart(tmp_path):
    for mode in ("full", "efficient"):
        write_run(tmp_path, "hu", "lora_pro", mode=mode)
    write_run(tmp_path, "hu")
    table = summary(load_study(tmp_path, "study"))
    assert list(table["system.mode"]) == ["–", "efficient", "full"]


def test_a_papers_row_of_a_method_does_not_cover_its_runs_with_a_system(tmp_path):
    row = RowKey("hu", (), "LoRA", None)
    assert row.covers(write_run(tmp_path, "hu"))
    assert not row.covers(write_run(tmp_path, "hu", "lora_pro"))
