import json
import math
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import wandb
from test_track import KEY, of_type, whole

from bench import mirror
from bench.report.read.load import ReportError, load_study
from bench.report.tables.tables import numbers, summary

ROOT = Path(__file__).parents[1]


@pytest.fixture
def study(tmp_path):
    ignored = shutil.ignore_patterns("*.safetensors", "wandb")
    shutil.copytree(ROOT / "results" / "demo", tmp_path / "demo", ignore=ignored)
    return load_study(tmp_path, "demo", mix=True)


def called(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench.mirror", *map(str, arguments)])
    mirror.main()


def sent(command):
    """The folder that the printed command uploads."""
    assert command.startswith("wandb sync ")
    return Path(command.removeprefix("wandb sync ").strip())


def test_a_report_is_one_run_of_its_studys_group(study, monkeypatch, capsys):
    called(monkeypatch, "demo", "--results-dir", study.folder.parent, "--offline", "--project", "mine", "--mix")
    (run,) = of_type(sent(capsys.readouterr().out), "run")
    assert (run["run_group"], run["job_type"], run["project"]) == ("demo", "report", "mine")


def test_a_report_holds_the_tables_every_image_and_the_files_of_both(study, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    folder = sent(mirror.mirror(study, "p", "offline"))
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


def test_the_tables_are_those_of_the_report(study):
    (part,) = study.by_task_and_model.values()
    found = mirror.tables(study)
    pd.testing.assert_frame_equal(found["numbers"], numbers(study))
    pd.testing.assert_frame_equal(found["table"], summary(part))


def test_a_missing_number_is_none_in_a_table_and_a_count_stays_whole():
    frame = pd.DataFrame({"label": ["a", None], "mean": [0.5, math.nan], "n": pd.array([400, None], dtype="Int64")})
    table = mirror.as_table(frame)
    assert table.columns == ["label", "mean", "n"]
    assert table.data == [["a", 0.5, 400], [None, None, None]]
    assert json.dumps(table.data[0]) == '["a", 0.5, 400]'


def test_a_study_without_a_written_report_names_the_command_that_writes_it(study, monkeypatch):
    shutil.rmtree(study.folder / "figures")
    with pytest.raises(SystemExit, match=r"figures is empty; write it first: python -m bench\.report demo$"):
        called(monkeypatch, "demo", "--results-dir", study.folder.parent, "--offline", "--mix")


def test_wandb_that_does_not_answer_is_an_error_of_one_line(study, monkeypatch):
    def init(**_):
        raise wandb.errors.CommError("no answer\nfor 30 s")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(ReportError, match=r"^W&B: CommError: no answer; keep the report here with --offline$"):
        mirror.mirror(study, "p", "online")
