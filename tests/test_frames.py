"""The data frames say what the records say, and the page about them runs as it is printed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bench.report import alignment, curves, frame, runs
from bench.report.__main__ import main
from bench.report.read.members import ReportError
from bench.runs.record import SCHEMA_VERSION, Record, read_record, read_rows, write_record
from bench.study.plan_file import PlannedRun, StudyPlan, write_plan

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"


def folder_of(run_id):
    return RESULTS / "demo" / run_id


def test_a_score_a_row_is_the_records_score():
    scores = frame("demo", RESULTS)
    assert not scores.duplicated(["stage", "run_id", "dataset", "metric"]).any()
    for row in scores[scores["metric"] != "eval_loss"].sample(5, random_state=0).itertuples():
        record = read_record(folder_of(row.run_id))
        score = next(one for one in record.scores if one.metric == row.metric)
        assert (row.value, row.stderr, row.num_items) == (score.value, score.stderr, score.num_examples)
        assert row.seconds == pytest.approx(sum(phase.seconds for phase in record.phases.values()))
        assert row.num_trainable == record.initialization.num_trainable


def test_what_a_run_has_not_is_missing():
    scores = frame("demo", RESULTS).set_index("method")
    assert scores.loc["full_ft", "rank"].isna().all()
    assert (scores.loc["hu", "rank"] == 8).all()
    untrained = scores.loc[["none"]]
    assert untrained[["seed", "learning_rate", "rank"]].isna().all(axis=None)
    assert {"exact_match,strict-match"} <= set(untrained["metric"]) <= {"exact_match,strict-match", "loss"}
    assert set(scores.loc["hu", "metric"]) - {"loss"} == {"exact_match,strict-match", "eval_loss"}


def test_the_loss_before_and_after_training_are_columns(tmp_path):
    source = next((RESULTS / "demo").glob("hu-*"))
    record = read_record(source)
    record.schema_version = SCHEMA_VERSION
    record.retention = {"text": "t", "num_tokens": 9, "loss_before": 1.5, "loss_after": 2.0}
    (tmp_path / "trial" / source.name).mkdir(parents=True)
    write_record(tmp_path / "trial" / source.name, record)
    found = frame("trial", tmp_path)
    assert (set(found["retention_before"]), set(found["retention_after"])) == ({1.5}, {2.0})


def test_a_failed_run_is_a_row_without_a_metric(tmp_path):
    source = next((RESULTS / "demo").glob("hu-*"))
    shutil.copytree(source, tmp_path / "trial" / source.name)
    content = read_record(source).model_dump()
    empty = {key: {} for key in ("training", "initialization", "phases", "model", "data", "scoring")}
    content |= empty | {"status": "failed", "scores": [], "error": {"type": "ValueError", "message": "no"}}
    write_record(tmp_path / "trial" / source.name, Record.model_validate(content))
    (row,) = frame("trial", tmp_path).to_dict("records")
    assert (row["status"], row["method"], row["stage"]) == ("failed", "hu", "run")
    assert pd.isna([row["metric"], row["value"], row["num_trainable"], row["seconds"], row["peak_bytes"]]).all()
    (run,) = runs("trial", tmp_path).to_dict("records")
    assert (run["status"], run["error"]) == ("failed", "ValueError: no")


def test_a_run_of_a_study_in_stages_has_its_stage():
    scores = frame("lora_sb/glue_tiny", RESULTS)
    assert set(scores["stage"]) >= {"select", "tuned"}


def test_a_step_a_row_is_the_curves_row():
    found = curves("demo", RESULTS)
    own = found[(found["method"] == "hu") & (found["seed"] == 1)]
    rows = read_rows(folder_of(own["run_id"].iloc[0]) / "curve.jsonl")
    assert own["step"].tolist() == [row["step"] for row in rows]
    for column in ("loss", "learning_rate", "grad_norm", "tokens", "seconds"):
        assert own[column].tolist() == [row[column] for row in rows]
    assert own["eval_loss"].notna().sum() == 6
    assert (own["peak_learning_rate"] == own["learning_rate"].max()).all()


def test_a_measure_a_row_is_the_alignments_row():
    found = alignment("demo", RESULTS)
    own = found[(found["method"] == "hu") & (found["seed"] == 1)]
    rows = read_rows(folder_of(own["run_id"].iloc[0]) / "alignment.jsonl")
    assert own["measure"].tolist() == [row["measure"] for row in rows]
    assert own["value"].isna().sum() == sum(row["value"] is None for row in rows)
    assert {"all", "model.layers.0.self_attn.q_proj"} <= set(own["layer"])


@pytest.mark.parametrize("table", [frame, curves, alignment, runs])
def test_a_study_that_does_not_exist_is_one_line_that_names_those_that_do(table):
    with pytest.raises(ReportError, match=r"^no study 'dmeo' in .*; there are: .*\bdemo, .*schemes$"):
        table("dmeo", RESULTS)


def test_a_run_of_two_stages_is_one_row_of_both(tmp_path):
    source = next((RESULTS / "demo").glob("hu-*"))
    shutil.copytree(source, tmp_path / "mine" / source.name)
    stages = ("tuned", "shared")
    planned = tuple(PlannedRun(stage, (), (), source.name) for stage in stages)
    write_plan(tmp_path / "mine", StudyPlan(None, stages, planned))
    assert runs("mine", tmp_path)["stage"].tolist() == ["tuned, shared"]


def test_a_run_a_row_has_all_its_stages_and_the_records_seconds():
    found = runs("lora_ga/t5_glue_tiny", RESULTS)
    assert found["run_id"].is_unique
    assert {"select", "tuned"} <= set(found["stage"])
    row = found.iloc[-1]
    record = read_record(RESULTS / "lora_ga" / "t5_glue_tiny" / row.run_id)
    assert (row.init_seconds, row.train_seconds) == (record.init_seconds, record.seconds("train"))
    assert (row.eval_loss, row.num_trainable) == (record.eval_loss, record.initialization.num_trainable)


def test_the_command_line_writes_the_frame(tmp_path):
    files = [tmp_path / "scores.csv", tmp_path / "scores.parquet"]
    words = ["demo", "--results-dir", str(RESULTS), "--csv", str(files[0]), "--parquet", str(files[1])]
    assert main(words) == 0
    expected = frame("demo", RESULTS)
    pd.testing.assert_frame_equal(pd.read_parquet(files[1]), expected, check_dtype=False)
    assert pd.read_csv(files[0])["value"].tolist() == expected["value"].tolist()


def test_frames_need_no_torch():
    code = (
        "import sys, bench.report; print([name for name in ('torch', 'transformers', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
