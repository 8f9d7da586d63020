import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
import wandb
from test_track import KEY, of_type, whole

from bench import mirror
from bench.report.read.load import load_study
from bench.report.tables.tables import numbers, summary

ROOT = Path(__file__).parents[1]


@pytest.fixture
def study(tmp_path):
    ignored = shutil.ignore_patterns("*.safetensors", "wandb")
    shutil.copytree(ROOT / "results" / "demo", tmp_path / "demo", ignore=ignored)
    return load_study(tmp_path, "demo", mix=True)


@pytest.fixture
def called(study, capsys):
    """Calls the command line; returns its exit status and what it printed."""

    def call(*arguments):
        status = mirror.main(["demo", "--results-dir", str(study.folder.parent), "--mix", *arguments])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return call


def test_a_report_holds_the_tables_every_image_and_the_files_of_both(study, called, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    status, printed = called("--offline", "--project", "mine")
    assert status == 0
    assert printed.startswith("wandb sync ")
    folder = Path(printed.removeprefix("wandb sync ").strip())
    (run,) = of_type(folder, "run")
    assert (run["run_group"], run["job_type"], run["project"]) == ("demo", "report", "mine")
    (row,) = of_type(folder, "history")
    images = {path.stem for path in (study.folder / "figures").glob("*.png")}
    logged = {key.partition("._type")[0] for key in row["item"] if key.endswith("._type")}
    assert logged == {"numbers", "table"} | {f"figures/{name}" for name in images}
    (report,) = (one for one in of_type(folder, "artifact") if one["type"] == "report")
    assert report["name"] == "report-demo"
    names = {entry["path"] for entry in report["manifest"]["contents"]}
    assert names == {path.relative_to(study.folder).as_posix() for path in mirror.report_files(study)}
    assert {"tables/results.csv", "figures/convergence.png", "index.html"} <= names
    (written,) = folder.glob("*.wandb")
    assert KEY.encode() not in written.read_bytes()
    assert whole(folder)["exit_code"] == 0


def test_the_tables_are_those_of_the_report_with_none_for_what_is_missing(study):
    (part,) = study.by_task_and_model.values()
    found = mirror.tables(study)
    pd.testing.assert_frame_equal(found["table"], summary(part), check_dtype=False)
    expected = numbers(study)
    assert (found["numbers"].isna() == expected.isna()).all(axis=None)
    assert found["numbers"].equals(expected.astype(object).where(expected.notna(), None))
    values = found["numbers"].to_numpy().ravel()
    assert any(value is None for value in values)
    assert not any(isinstance(value, float) and math.isnan(value) for value in values)


def test_a_study_without_a_written_report_names_the_command_that_writes_it(study, called):
    shutil.rmtree(study.folder / "figures")
    status, printed = called("--offline")
    assert status == 2
    assert printed.strip().endswith("figures is empty; write it first: python -m bench.report demo")


def test_wandb_that_does_not_answer_is_an_error_of_one_line(called, monkeypatch):
    def init(**_):
        raise wandb.errors.CommError("no answer\nfor 30 s")

    monkeypatch.setattr(wandb, "init", init)
    said = "error: W&B: CommError: no answer; keep the report here with --offline\n"
    assert called() == (2, said)
