import csv
from pathlib import Path

import pandas as pd
import pytest
from records import a_config, a_score, make_record

from bench.report.papers.papers import COLUMNS, known_methods, published, read_published
from bench.report.papers.published import paper_table, write_paper_tables
from bench.report.read.load import ReportError, load_study
from bench.runs.record import write_record
from bench.study.folders import ROOT
from bench.study.plan_file import PlannedRun, StudyPlan, write_plan

FILES = sorted((ROOT / "experiments").glob("*/published.csv"))
ROW = {
    "study": "p/glue", "table": "Table 1", "model": "m", "method": "hu", "label": "LoRA", "rank": "8",
    "trainable": "1K", "task": "sst2", "metric": "acc", "value": "94", "std": "", "source": "primary: Table 1",
}  # fmt: skip


@pytest.fixture
def experiments(tmp_path, monkeypatch):
    """A working directory with experiments/p/published.csv of the rows that a test gives."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "experiments" / "p"
    folder.mkdir(parents=True)

    def write(*changes, columns=COLUMNS):
        with (folder / "published.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(ROW | change for change in changes)
        return folder / "published.csv"

    return write


def score(task, value, metric="acc"):
    return a_score(value, task, metric, stderr=0.01, num_examples=100)


def write_run(
    method="hu", seed=0, scores=(), task="sst2", model="m", rank=8, status="completed", study="p/glue", **settings
):
    """A record in results/STUDY; settings such as learning_rate and scaling; returns its run id."""
    rate, scaling = settings.get("learning_rate", 0.01), settings.get("scaling", "alpha_over_r")
    config = a_config(method, seed, rate, task, model) | {"rank": {"name": f"r{rank}", "r": rank}}
    config["method"]["scaling"] = scaling
    run_id = f"{method}-{rank}-{task}-{model}-{rate}-{scaling}-{seed}"
    environment = {"fingerprint": "f", "versions": {}, "hardware": {}}
    record = make_record(run_id, status, method.upper(), config, config, environment)
    record.initialization = {"num_trainable": 1000 * rank, "num_head": 0}
    record.training = {"num_steps": 3}
    record.scores = list(scores)
    folder = Path("results") / study / run_id
    folder.mkdir(parents=True)
    write_record(folder, record)
    return run_id


def the_study():
    return load_study(Path("results"), "p/glue")


def places_of(place=0):
    """The numbers of one table of the study, a row a method and task."""
    return paper_table(the_study())[place].places


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "lora_gaa"}, "method='lora_gaa': unknown method; known: none, full_ft, hu"),
        ({"value": "94,2"}, "value='94,2': input should be a valid number"),
        ({"value": "nan"}, "value='nan': input should be a finite number"),
        ({"std": "±0.1"}, "std='±0.1': input should be a valid number"),
        ({"rank": "0.5"}, "rank='0.5': input should be a valid integer"),
        ({"source": ""}, "source='': every row needs one"),
        ({"study": "q/glue"}, "write p/NAME"),
        ({"method": "hu alpha_over_sqrt_r"}, "'alpha_over_sqrt_r' behind the method is no key=value"),
    ],
)
def test_a_bad_row_is_named_with_its_line_and_the_remedy(experiments, change, message):
    path = experiments({"task": "cola"}, change)
    with pytest.raises(ReportError) as raised:
        read_published(path)
    assert message in str(raised.value)
    assert f"{path}:3" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_two_rows_for_one_number_are_refused(experiments):
    with pytest.raises(ReportError, match=r":3: LoRA r 8, sst2 is also in line 2"):
        read_published(experiments({}, {"value": "95"}))


def test_an_unknown_column_is_named_and_so_is_a_missing_one(experiments):
    path = experiments({})
    path.write_text(path.read_text().replace("source", "page", 1))
    with pytest.raises(ReportError, match="source is missing; page='primary: Table 1': nothing reads this key"):
        read_published(path)


def test_a_row_with_an_unquoted_comma_is_refused(experiments):
    path = experiments({})
    path.write_text(path.read_text().replace("primary: Table 1", "primary: Table 1, left"))
    with pytest.raises(ReportError, match="12 fields in line 2, saw 13; a field with a comma goes between quotes"):
        read_published(path)


def test_a_number_is_compared_with_ours_in_points(experiments):
    experiments({}, {"task": "cola", "metric": "mcc", "value": "60"})
    for seed, value in enumerate((0.95, 0.96, 0.97)):
        write_run(seed=seed, scores=[score("sst2", value)])
    places = places_of()
    assert places.loc[0, ["ours", "n", "difference"]].tolist() == [pytest.approx(96), 3, pytest.approx(2)]
    assert places[["ours", "difference"]].iloc[1].isna().all()
    assert places["trainable"].tolist() == [8000, 8000]


def test_no_difference_is_printed_where_the_metric_differs_and_the_note_says_so(experiments):
    experiments({"task": "cola", "metric": "acc", "value": "69.35"})
    write_run(scores=[score("cola", 0.5, "mcc")])
    (table,) = paper_table(the_study())
    assert table.places["difference"].isna().all()
    assert any("cola acc in the paper, mcc here" in note for note in table.notes)
    assert "(1) mcc / 69.35 / – |" in write_paper_tables(the_study(), Path("tables"))


def test_the_papers_metric_is_found_behind_others_and_with_a_filter(experiments):
    experiments({"task": "gsm8k", "metric": "exact_match", "value": "40"})
    write_run(scores=[score("gsm8k", 0.1, "acc"), score("gsm8k", 0.5, "exact_match,strict-match")])
    assert places_of()["difference"].tolist() == [pytest.approx(10)]


def test_the_average_is_over_the_tables_tasks_although_each_was_its_own_run(experiments):
    experiments({"task": "average", "metric": "mean", "value": "80"}, {}, {"task": "rte", "value": "70"})
    for seed in (0, 1):
        write_run(seed=seed, scores=[score("sst2", 0.9 + seed / 50)])
        write_run(seed=seed, task="rte", scores=[score("rte", 0.7 + seed / 50)])
    places = places_of()
    assert places["task"].tolist() == ["sst2", "rte", "average"]
    assert places.iloc[-1][["ours", "n", "difference"]].tolist() == [pytest.approx(81), 2, pytest.approx(1.0)]


def test_an_average_that_lacks_a_task_is_a_dash(experiments):
    experiments({"task": "average", "metric": "mean", "value": "80"}, {}, {"task": "rte", "value": "70"})
    write_run(scores=[score("sst2", 0.9)])
    assert pd.isna(places_of()["ours"].iloc[-1])


def test_rslora_is_lora_with_a_setting_and_takes_no_run_of_lora(experiments):
    experiments({}, {"method": "hu method.scaling=alpha_over_sqrt_r", "label": "rsLoRA"})
    write_run(scores=[score("sst2", 0.8)])
    write_run(scores=[score("sst2", 0.9)], scaling="alpha_over_sqrt_r")
    assert places_of()["ours"].tolist() == [80, 90]


def test_a_table_of_another_learning_rate_takes_runs_at_that_rate_only(experiments):
    experiments({"method": "hu train.learning_rate=1e-5"})
    write_run(scores=[score("sst2", 0.8)], learning_rate=2e-5)
    assert places_of()["ours"].isna().all()
    write_run(scores=[score("sst2", 0.9)], learning_rate=1e-5)
    assert places_of()["ours"].tolist() == [90]


def test_ranks_and_models_are_kept_apart(experiments):
    experiments({}, {"rank": "16"}, {"model": "other"})
    write_run(scores=[score("sst2", 0.8)])
    write_run(scores=[score("sst2", 0.9)], rank=16)
    first, other = paper_table(the_study())
    assert first.places["ours"].tolist() == [80, 90]
    assert other.places["ours"].isna().all()
    assert any("our runs on m are not in it" in note for note in other.notes)


def test_of_several_configurations_that_fit_none_is_chosen(experiments):
    experiments({})
    for rate in (0.01, 0.1):
        write_run(scores=[score("sst2", 0.8)], learning_rate=rate)
    (table,) = paper_table(the_study())
    assert table.places["ours"].isna().all()
    assert any("several configurations of ours fit: LoRA r 8, sst2" in note for note in table.notes)


def test_failed_runs_are_counted_in_their_row(experiments):
    experiments({}, {"method": "lora_ga", "label": "LoRA-GA"})
    write_run(scores=[score("sst2", 0.8)])
    write_run("lora_ga", status="failed")
    assert places_of()["failed"].tolist() == [0, 1]
    assert "failed runs" in write_paper_tables(the_study(), Path("tables"))


def test_the_stages_published_and_tuned_are_beside_the_paper_each(experiments):
    experiments({})
    runs = [
        PlannedRun(stage, ("method=hu",), (f"x={rate}",), write_run(scores=[score("sst2", value)], learning_rate=rate))
        for stage, rate, value in (("select", 0.5, 0.1), ("tuned", 0.02, 0.9), ("published", 0.01, 0.8))
    ]
    write_plan(Path("results/p/glue"), StudyPlan("p/glue", ("select", "tuned", "published"), tuple(runs)))
    tables = paper_table(the_study())
    assert [(*t.places["stage"], *t.places["ours"]) for t in tables] == [("published", 80), ("tuned", 90)]


def test_a_number_is_printed_with_its_deviation_and_source_and_a_blank_one_is_named(experiments):
    experiments(
        {"value": "", "source": "number not found"},
        {"method": "lora_ga", "label": "LoRA-GA", "value": "94.11", "std": "0.18"},
        {"method": "", "label": "AdaLoRA", "value": "93"},  # which the suite lacks
    )
    write_run(scores=[score("sst2", 0.8)])
    text = write_paper_tables(the_study(), Path("tables"))
    assert "– / 94.11 ± 0.18 / –" in text
    assert "– / 93 / –" in next(line for line in text.splitlines() if "AdaLoRA" in line)
    assert "Left blank, no source found for all or some tasks: LoRA r 8." in text
    assert "number not found" not in text
    assert "Primary source: Table 1 (every row)." in text


def test_a_study_of_the_embedded_tier_stands_beside_the_paper_and_nothing_is_subtracted(experiments):
    experiments({"rank": "32", "trainable": "80M"}, {"rank": "64", "value": ""}, {"label": "AdaLoRA", "method": ""})
    for seed, value in enumerate((0.5, 0.6)):
        write_run(seed=seed, scores=[score("sst2_tiny", value)], model="tiny", study="p/glue_tiny")
    (table,) = paper_table(load_study(Path("results"), "p/glue_tiny"))
    assert table.heading == "Table 1, m, beside tiny, stage run"
    assert table.notes[0].startswith("Other model: not comparable, shown beside.")
    assert "Primary source: Table 1" in table.notes[1]
    texts = table.texts
    assert texts["method"].tolist() == ["LoRA", "LoRA", "AdaLoRA"]
    assert texts["rank"].tolist() == ["32", "64", "8"]
    assert texts["rank, ours"].tolist() == ["8", "–", "–"]
    assert texts["sst2 acc %"].tolist() == ["94", "–", "94"]
    (ours,) = (name for name in texts if name.startswith("ours: sst2_tiny acc"))
    assert texts[ours][0].startswith("55.0 [")
    assert texts[ours].tolist()[1:] == ["–", "–"]
    assert table.places["difference"].isna().all()
    assert table.places["ours"].max() == pytest.approx(55)


def test_our_rows_that_outnumber_the_papers_have_rows_of_their_own(experiments):
    experiments({})
    for rank in (4, 8):
        for seed in (0, 1):
            write_run(seed=seed, scores=[score("t", rank / 10)], rank=rank, study="p/glue_tiny")
    (table,) = paper_table(load_study(Path("results"), "p/glue_tiny"))
    assert table.texts["rank, ours"].tolist() == ["4", "8"]
    assert table.texts["rank"].tolist() == ["8", "–"]
    assert [text[:4] for text in table.texts["ours: t acc %"]] == ["40.0", "80.0"]


def test_a_table_of_which_no_number_is_known_is_not_shown_beside_another_model(experiments):
    experiments({"value": ""})
    write_run(scores=[score("t", 0.5)], study="p/glue_tiny")
    assert paper_table(load_study(Path("results"), "p/glue_tiny")) == ()


@pytest.mark.parametrize("study", ["lora_ga/t5_glue_tiny", "lora_sb/arithmetic_tiny", "asymmetry/mmlu_tiny"])
def test_committed_studies_of_the_embedded_tier_show_the_papers_numbers_as_not_comparable(study):
    text = (ROOT / "results" / study / "tables" / "paper.md").read_text()
    assert "Other model: not comparable, shown beside." in text
    assert "| LoRA " in text
    frame = pd.read_csv(ROOT / "results" / study / "tables" / "paper.csv")
    assert frame["difference"].isna().all()
    assert frame["published"].notna().any()
    assert frame["ours"].notna().any()


def test_nothing_published_writes_nothing(experiments):
    experiments({"study": "p/other"})
    write_run(scores=[score("sst2", 0.8)])
    assert write_paper_tables(the_study(), Path("tables")) == ""
    assert not Path("tables").exists()


def test_the_three_files_hold_the_table_numbers_unrounded_and_are_the_same_each_time(experiments):
    experiments({"trainable": "0.8%"}, {"method": "lora_ga", "label": "LoRA-GA"})
    write_run(scores=[score("sst2", 2 / 3)])
    written = []
    for folder in (Path("one"), Path("two")):
        write_paper_tables(the_study(), folder)
        written.append({path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    assert written[0] == written[1]
    assert list(written[0]) == ["paper.csv", "paper.md", "paper.tex"]
    rows = list(csv.DictReader(Path("one/paper.csv").read_text().splitlines()))
    assert float(rows[0]["ours"]) == pytest.approx(200 / 3, rel=1e-15)
    assert (rows[0]["difference"][:6], rows[1]["ours"], rows[1]["difference"]) == ("-27.33", "", "")
    latex = Path("one/paper.tex").read_text()
    assert r"\toprule" in latex
    assert r"0.8\%" in latex


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_every_published_number_has_a_source_and_a_model_and_task_of_the_suite_or_named_as_none(path):
    models = {file.stem for file in (ROOT / "conf" / "model").glob("*.yaml")}
    datasets = {file.stem for file in (ROOT / "conf" / "dataset").glob("*.yaml")}
    for number in read_published(path):
        assert number.source
        assert "[M]" not in number.source
        assert "memory" not in number.source
        assert number.study.startswith(f"{path.parent.name}/")
        assert number.value is None or 0 < number.value <= 100
        assert number.row.method in ("", *known_methods())
        assert number.model in models or not number.row.method
        assert number.task in datasets | {"average", "mmlu", "mt_bench"}


@pytest.mark.parametrize("study", ["lora_sb/arithmetic", "lora_sb/glue", "lora_ga/t5_glue", "asymmetry/mmlu"])
def test_the_numbers_of_each_papers_study_are_known_in_every_folder(study, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where there is no experiments/, the suite's own
    assert published(study)
