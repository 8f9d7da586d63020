"""Studies side by side: all rows in one table, comparisons only of what was made under equal conditions."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from bench.report.__main__ import main
from bench.report.judge.comparisons import judge
from bench.report.read.beside import side_by_side
from bench.report.read.load import load_study
from bench.report.read.members import ReportError
from bench.report.tables.tables import judge_stages, summary, write_tables
from bench.runs.record import Record, read_record, write_record

RESULTS = Path(__file__).parents[1] / "results"
NUMBERS = ["difference", "low", "high", "n", "paired_items", "p_seeds", "p_items"]


def copied(root, study, methods, change=None, of="demo"):
    """Runs of a committed study as a study of their own, each content of a record changed."""
    for method in methods:
        for source in (RESULTS / of).glob(f"{method}-*"):
            shutil.copytree(source, root / study / source.name)
            content = read_record(source).model_dump()
            if change:
                change(content)
                content["run_id"] = f"{method}-{study}-{content['config']['seed']}"
                (root / study / source.name).rename(root / study / content["run_id"])
            write_record(root / study / content["run_id"], Record.model_validate(content))


def beside(root, *names, mix=False):
    return side_by_side([load_study(root, name) for name in names], root / "out", mix)


def compared(study):
    """Titles of each pair of rows that has a comparison."""
    (part,) = study.by_task_and_model.values()
    judged = judge(part.cells, study.pairing)
    return {frozenset((judged.cells[one.first].title, judged.cells[one.second].title)) for one in judged.comparisons}


def test_rows_of_two_studies_are_compared_as_if_they_were_of_one(tmp_path):
    copied(tmp_path, "a", ["hu", "lora_ga"])
    copied(tmp_path, "b", ["reversed"])
    study = beside(tmp_path, "a", "b")
    assert study.notes == ("Rows of a are compared with those of b.",)
    table = summary(study)
    assert table["method"].tolist() == ["LoRA", "LoRA Init[B]", "LoRA-GA"]
    assert table["study"].tolist() == ["a", "b", "a"]
    write_tables(study, tmp_path / "tables")
    pair = "first_method == 'reversed' and second_method == 'hu'"
    found = pd.read_csv(tmp_path / "tables" / "comparisons.csv").query(pair)
    own = pd.read_csv(RESULTS / "demo" / "tables" / "comparisons.csv").query(pair)
    assert found["second"].tolist() == ["LoRA, a", "LoRA, a"]
    mine, theirs = (rows.set_index("metric")[NUMBERS] for rows in (found, own))
    pd.testing.assert_frame_equal(mine.loc[theirs.index], theirs)
    assert found["in_family"].any()


def with_budget(content):
    content["config"]["train"]["max_steps"] = 60
    content["identity"]["train"]["max_steps"] = 60


def with_data(content):
    content["data"]["sha256"] = "e" * 64


def with_items(content):
    for score in content["scores"]:
        score["task"] = "other"


def with_stack(content):
    content["environment"]["fingerprint"] = "another"


def with_precision(content):
    content["config"]["score"]["precision"] = "bf16"


CONDITIONS = {
    "budget: 120 steps of 16 against 60 steps of 16": with_budget,
    "data: 555dbc10 against eeeeeeee": with_data,
    "items: gsm_tiny 400 (47401429) against other 400": with_items,
    "stack: df00e7291919 against another": with_stack,
    "scoring precision: fp32 against bf16": with_precision,
}


@pytest.mark.parametrize("why", CONDITIONS)
def test_rows_made_under_another_condition_are_not_compared_and_the_note_says_why(tmp_path, why):
    copied(tmp_path, "a", ["hu", "reversed"])
    copied(tmp_path, "b", ["hu", "lora_ga"], CONDITIONS[why])
    study = beside(tmp_path, "a", "b")
    assert study.notes == (f"Rows of a are not compared with those of b ({why}).",)
    pairs = compared(study)
    assert len(pairs) == 2
    assert all(len({title.split(", ")[1] for title in pair}) == 1 for pair in pairs)
    columns = judge_stages(study)[study.stage]
    family = [one for of in columns.values() for one in of.comparisons if one.in_family]
    assert family


def test_another_stack_is_compared_where_mixing_is_asked_for(tmp_path):
    copied(tmp_path, "a", ["hu"])
    copied(tmp_path, "b", ["lora_ga"], with_stack)
    assert not compared(beside(tmp_path, "a", "b"))
    assert compared(beside(tmp_path, "a", "b", mix=True)) == {frozenset(("LoRA, a", "LoRA-GA, b"))}


def test_an_untrained_model_has_no_budget_to_differ_in(tmp_path):
    copied(tmp_path, "a", ["none"])
    copied(tmp_path, "b", ["hu"])
    assert compared(beside(tmp_path, "a", "b")) == {frozenset(("Pretrained, a", "LoRA, b"))}


def test_the_same_runs_in_two_studies_are_one_row_and_one_hypothesis():
    study = beside(RESULTS, "lora_sb/glue_tiny", "asymmetry/glue_tiny")
    table = summary(study)
    rows = table[table["method"] == "LoRA"]
    assert rows["study"].tolist() == ["lora_sb/glue_tiny and asymmetry/glue_tiny"]
    assert "In one row, because the studies named in it have the same runs: LoRA." in study.notes
    assert "Rows of lora_sb/glue_tiny are compared with those of asymmetry/glue_tiny." in study.notes
    assert table["rank.r"].tolist() == ["–", "8", "8", "16", "8", "8", "8"]


def test_rows_that_share_some_runs_are_not_compared(tmp_path):
    copied(tmp_path, "a", ["hu"])
    copied(tmp_path, "b", ["hu"])
    shutil.rmtree(next((tmp_path / "b").glob("hu-*")))
    study = beside(tmp_path, "a", "b")
    assert study.notes == ("Rows of a are not compared with those of b (runs that both have: LoRA).",)
    assert not compared(study)


def test_a_task_that_one_study_has_alone_is_said_to_be():
    notes = beside(RESULTS, "demo", "minilm_glue/sst2").notes
    assert notes == (
        "gsm_tiny, tiny_llama: Only in demo: nothing is compared between studies.",
        "sst2, minilm: Only in minilm_glue/sst2: nothing is compared between studies.",
    )


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_command_writes_into_a_folder_of_its_own_and_leaves_both_studies_as_they_are(tmp_path, capsys):
    copied(tmp_path, "a", ["hu", "lora_ga"])
    copied(tmp_path, "b", ["reversed"])
    before = contents(tmp_path)
    assert main(["a", "b", "--results-dir", str(tmp_path), "--errors", "sd"]) == 0
    assert "Rows of a are compared with those of b." in capsys.readouterr().out
    assert r"$\pm$" in (tmp_path / "a+b" / "tables" / "results.tex").read_text()
    after = contents(tmp_path)
    assert {name for name in after if after[name] != before.get(name)} == {
        name for name in after if name.parts[0] == "a+b"
    }
    assert {"tables", "figures", "index.html"} <= {path.name for path in (tmp_path / "a+b").iterdir()}
    assert "LoRA Init[B], b" in (tmp_path / "a+b" / "figures" / "convergence.csv").read_text()
    assert main(["a", "b", "--results-dir", str(tmp_path), "--to", str(tmp_path / "b")]) == 2
    assert "b is a study, whose own report it keeps; name another folder with --to" in capsys.readouterr().err
    assert contents(tmp_path) == after


def test_a_study_that_is_not_there_is_named_whichever_place_it_has(tmp_path):
    copied(tmp_path, "a", ["none"])
    for words in (["a", "x"], ["x", "a"]):
        with pytest.raises(ReportError, match=r"^no study 'x' in .*; there are: a$"):
            beside(tmp_path, *words)
    csv = tmp_path / "both.csv"
    copied(tmp_path, "b", ["none"])
    assert main(["a", "b", "--results-dir", str(tmp_path), "--csv", str(csv)]) == 0
    assert pd.read_csv(csv)["study"].unique().tolist() == ["a", "b"]
