import gzip
import json
import shlex
from pathlib import Path

import pytest
from test_record import a_record

from bench.compact import main as keep
from bench.process.places import located
from bench.runs.record import describe_files, differing_files, read_record, read_rows, write_record
from bench.study.compact import compact
from bench.study.plan_file import CorruptPlanError, PlannedRun, StudyPlan, read_plan, write_plan


def planned(stage, *overrides, run_id="x"):
    return PlannedRun(stage, ("method=hu",), overrides, run_id)


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan = StudyPlan("lora_ga/t", ("select", "tuned"), (planned("select", "method=hu"), planned("tuned", run_id=None)))
    write_plan(tmp_path / "new", plan)
    assert read_plan(tmp_path / "new") == plan


def test_without_a_plan_there_is_none_and_a_torn_one_is_an_error(tmp_path):
    assert read_plan(tmp_path) is None
    (tmp_path / "study.json").write_text('{"experiment": null, "stages": ["run"], "runs": [{"stage"')
    with pytest.raises(CorruptPlanError, match=r"study\.json: .*invalid json.*start the sweep again"):
        read_plan(tmp_path)


def test_the_command_runs_one_cell_of_the_experiment():
    plan = StudyPlan("lora_ga/t", ("run",), (planned("run", "method=hu", "seed=1"),))
    assert plan.command(plan.runs[0]) == ("python -m bench.run +experiments=lora_ga/t method=hu seed=1 hydra.mode=RUN")
    elsewhere = plan.command(plan.runs[0], Path("my, results"))
    assert shlex.split(elsewhere)[-2:] == ['results_dir="my, results"', "hydra.mode=RUN"]
    alone = StudyPlan(None, ("run",), plan.runs)
    assert alone.command(plan.runs[0]) == "python -m bench.run method=hu seed=1"


def test_a_newer_plan_keeps_what_it_does_not_plan_itself():
    older = StudyPlan("e", ("select", "tuned"), (planned("select", "seed=1"), planned("tuned", "seed=1", run_id="old")))
    newer = StudyPlan("e", ("select", "tuned"), (planned("tuned", "seed=2", run_id="new"),))
    assert [run.run_id for run in older.joined(newer).runs] == ["x", "old", "new"]


def test_cells_that_differ_in_the_place_of_their_data_alone_stay_apart_when_they_are_planned_again():
    plan = StudyPlan(None, ("run",), tuple(planned("run", "data.root=FOLDER", run_id=name) for name in "ab"))
    assert plan.joined(plan) == plan


def test_a_rate_chosen_anew_replaces_the_run_at_the_old_one_but_a_grids_points_stay():
    old = [planned(stage, "seed=1", "train.learning_rate=0.1", run_id="old") for stage in ("select", "tuned")]
    new = [planned(stage, "seed=1", "train.learning_rate=0.3", run_id="new") for stage in ("select", "tuned")]
    stages = ("select", "tuned")
    joined = StudyPlan("e", stages, tuple(old)).joined(StudyPlan("e", stages, tuple(new)))
    assert [(run.stage, run.run_id) for run in joined.runs] == [("select", "old"), ("select", "new"), ("tuned", "new")]


OUTCOMES = [
    {"doc_hash": "0123456789abcdef" * 4, "choice": 1, "response": "[(-0.9353042454, False), (-6.00000000e-06, True)]"},
    {"doc_hash": "0123456789abcdef" * 4, "choice": None, "response": "0.12345678 is the answer"},
]


def test_compacting_keeps_what_reports_read(tmp_path):
    write_plan(
        tmp_path, StudyPlan("e", ("select", "tuned"), (planned("select", run_id="s"), planned("tuned", run_id="t")))
    )
    rows = [{"step": step, "loss": 1.0 / step} for step in range(1, 50)]
    for name in ("s", "t"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / name / "outcomes.jsonl.gz").write_bytes(
            gzip.compress("".join(json.dumps(row) + "\n" for row in OUTCOMES).encode())
        )
        (tmp_path / name / "trained.safetensors").write_bytes(b"0" * 10_000)
        record = a_record(run_id=name)
        record.files = describe_files(tmp_path / name)
        write_record(tmp_path / name, record)
    before, after = compact(tmp_path)
    assert after < before / 2
    assert read_rows(tmp_path / "t" / "curve.jsonl") == rows
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["record.json"]
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == [
        "curve.jsonl.gz",
        "outcomes.jsonl.gz",
        "record.json",
    ]
    assert read_rows(tmp_path / "t" / "outcomes.jsonl.gz") == [
        OUTCOMES[0] | {"doc_hash": "01234567", "response": "[(-0.935304, False), (-6e-06, True)]"},
        OUTCOMES[1] | {"doc_hash": "01234567"},  # a text of the model's own, as it was
    ]
    packed = (tmp_path / "t" / "curve.jsonl.gz").read_bytes()
    assert packed[4:8] == bytes(4)  # gzip's time
    for name in ("s", "t"):
        record = read_record(tmp_path / name)
        assert differing_files(tmp_path / name, record) == []
        assert "trained.safetensors" in record.files  # what they were stays known
    assert compact(tmp_path) == (after, after)
    assert (tmp_path / "t" / "curve.jsonl.gz").read_bytes() == packed


def test_there_must_be_a_study_to_compact(tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        compact(tmp_path)


def test_a_study_is_kept_in_results_and_stays_in_runs_as_it_was(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "p" / "mine" / "t"
    for folder in (run, run.with_name(".begun"), run.with_name("wandb")):
        folder.mkdir(parents=True)
        (folder / "trained.safetensors").write_bytes(b"0" * 1000)
    record = a_record(run_id="t")
    record.files = describe_files(run)
    write_record(run, record)
    write_plan(run.parent, StudyPlan(None, ("run",), (planned("run", run_id="t"),)))
    assert keep(["p/mine"]) == 0
    assert "results/p/mine: " in capsys.readouterr().out
    kept = tmp_path / "results" / "p" / "mine"
    assert {path.name for path in kept.rglob("*")} == {"study.json", "t", "record.json"}
    assert (run / "trained.safetensors").is_file()
    assert differing_files(run, read_record(run)) == []
    assert keep(["p/mine"]) == 2
    assert capsys.readouterr().err == "error: results/p/mine exists; delete it first\n"
    assert keep(["results/p/mine/"]) == 0  # small already, in place


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("both",), ("runs", "both")),
        (("kept/one",), ("results", "kept/one")),
        (("neither",), ("runs", "neither")),
        (("results/both/",), ("results", "both")),
        (("./runs/both",), ("runs", "both")),
        (("runs/kept/one",), ("runs", "kept/one")),
        (("both", Path("/elsewhere")), ("/elsewhere", "both")),
        (("results/both", Path("results")), ("results", "both")),
        (("/elsewhere/both", Path("/elsewhere")), ("/elsewhere", "both")),
        (("/elsewhere/kept/one", Path("/elsewhere")), ("/elsewhere", "kept/one")),
        (("/elsewhere/kept/one/",), ("/elsewhere/kept", "one")),
        (("../elsewhere/one",), ("../elsewhere", "one")),
        (("{cwd}/results/kept/one",), ("results", "kept/one")),
        (("results/../runs/both",), ("runs", "both")),
    ],
)
def test_a_study_is_looked_for_in_runs_then_in_results_unless_its_folder_is_given(
    tmp_path, monkeypatch, words, expected
):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/both", "results/both", "results/kept/one"):
        Path(folder).mkdir(parents=True)
    study, *others = words
    assert located(study.format(cwd=tmp_path), *others) == (Path(expected[0]), expected[1])
