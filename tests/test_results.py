"""`bench.load`: a study's frames, comparisons and figures are those of its report, and its page runs as printed."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from records import a_score
from test_report import write_run

import bench
from bench.report import alignment, curves, frame, runs
from bench.report.read.members import ReportError
from bench.report.results import StudyResults

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
STAGED = "lora_ga/t5_glue_tiny"


@pytest.fixture(scope="module")
def demo():
    return bench.load("demo", RESULTS)


def test_its_frames_are_those_of_the_report(demo):
    for found, made in ((demo.scores, frame), (demo.curves, curves), (demo.alignment, alignment), (demo.runs, runs)):
        pd.testing.assert_frame_equal(found, made("demo", RESULTS))
    assert demo.scores is demo.scores


def test_a_study_in_a_folder_has_its_frames(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert set(bench.load(STAGED).scores["study"]) == {STAGED}


@pytest.mark.parametrize(("study", "stage"), [("demo", None), (STAGED, None), (STAGED, "tuned")])
def test_a_comparison_is_the_row_of_comparisons_csv_whichever_method_comes_first(study, stage):
    written = pd.read_csv(RESULTS / study / "tables" / "comparisons.csv")
    written = written[(written["first_method"] == "lora_ga") & (written["second_method"] == "hu")]
    study = bench.load(study, RESULTS)
    found = study.compare("lora_ga", "hu", stage).sort_values("metric")
    there = study.compare("hu", "lora_ga", stage).sort_values("metric")
    numbers = ["difference", "low", "high", "n", "p", "p_seeds", "p_items", "p_holm", "probability_high"]
    written = written.set_index(["dataset", "metric"])[numbers]
    assert len(written)
    mine = found.set_index(["dataset", "metric"]).loc[written.index, numbers]
    pd.testing.assert_frame_equal(mine.astype(float), written.astype(float), rtol=1e-9)
    assert there["difference"].tolist() == [-number for number in found["difference"]]
    assert there["low"].tolist() == [-number for number in found["high"]]
    assert there["low_90"].tolist() == [-number for number in found["high_90"]]
    assert there["probability_low"].tolist() == pytest.approx([1 - number for number in found["probability_high"]])


def test_two_methods_are_equivalent_where_the_90_percent_interval_is_inside_the_margin(demo):
    (score, loss) = demo.compare("lora_ga", "hu").to_dict("records")
    assert score["low"] < score["low_90"] < score["high_90"] < score["high"]
    widest = max(abs(score["low_90"]), abs(score["high_90"]))
    assert demo.compare("lora_ga", "hu", margin=widest + 1e-9)["is_equivalent"].iloc[0]
    assert not demo.compare("lora_ga", "hu", margin=widest - 1e-9)["is_equivalent"].iloc[0]
    assert score["margin"] == 0.01
    mean = demo.scores.query("method == 'hu' and metric == 'loss'")["value"].mean()
    assert loss["margin"] == pytest.approx(0.05 * mean)


def test_two_methods_that_learned_nothing_are_not_said_to_be_equivalent(tmp_path):
    for method in ("hu", "lora_ga"):
        for seed, value in enumerate((0.0, 0.001, 0.0)):
            loss = a_score(2.0, metric="loss", stderr=0.01, higher_is_better=False)
            write_run(tmp_path, method, seed, scores=[a_score(value, stderr=0.001), loss])
    found = bench.load("study", tmp_path).compare("lora_ga", "hu").set_index("metric")["is_equivalent"]
    assert pd.isna(found["acc"])
    assert found["loss"]


def test_with_one_seed_nothing_is_said_to_be_equivalent():
    width = bench.load("impact_of_init/width_tiny", RESULTS)
    found = width.compare("hu", "reversed", margin=1.0)
    assert set(found["n"]) == {1}
    assert found["is_equivalent"].isna().all()


def test_what_cannot_be_compared_or_drawn_is_one_line_that_names_what_can(demo):
    there_are = "none, full_ft, hu, reversed, lora_ga, lora_xs, lora_sb"
    with pytest.raises(ReportError, match=rf"^no completed run of method 'pissa' in stage run of demo; .*{there_are}$"):
        demo.compare("pissa")
    with pytest.raises(ReportError, match=r"^demo has no stage 'tuned'; there are: run$"):
        demo.compare("lora_ga", stage="tuned")
    with pytest.raises(ReportError, match=r"^no study 'dmeo' in .*; there are: .*\bdemo"):
        bench.load("dmeo", RESULTS)
    with pytest.raises(ReportError, match="the records of demo have nothing to draw rates from"):
        demo.plot.rates()
    with pytest.raises(ReportError, match=r"by='seed' is no line of a figure; method .* row"):
        demo.plot.convergence(by="seed")
    with pytest.raises(ReportError, match=r"one task and model, and .* has task='gsm_tiny', model='tiny_llama'; task="):
        bench.load("impact_of_init/width_tiny", RESULTS).plot.convergence()


def test_a_method_whose_runs_all_failed_is_named_with_their_number(demo):
    one = next(member for member in demo.study.members if member[1].config.method.name == "lora_xs")
    failed = (one[0], one[1].model_copy(update={"status": "failed"}))
    others = [member for member in demo.study.members if member[1].config.method.name != "lora_xs"]
    study = StudyResults(type(demo.study)("demo", demo.study.folder, [], members=[*others, failed]).at("run"))
    with pytest.raises(ReportError, match=r"method 'lora_xs' in stage run of demo \(1 failed\); there are: none"):
        study.compare("lora_xs", "hu")


def test_a_figure_is_the_reports_of_each_methods_best_row_or_of_every_row():
    from matplotlib import pyplot

    loaded = bench.load("lora_ga/llama2_tiny", RESULTS)
    labels = {}
    for by in ("method", "row"):
        figure = loaded.plot.score(by=by)
        assert isinstance(figure, Figure)
        labels[by] = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    methods = loaded.study.cells
    assert len({cell.title for cell in methods} & labels["row"]) == len(methods)
    assert len({cell.title for cell in methods} & labels["method"]) == len({cell.method for cell in methods})
    assert not pyplot.get_fignums()  # a notebook's own figures and backend are left alone


def test_the_recipes_of_the_page_run(tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    (tmp_path / "results").symlink_to(RESULTS)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "bench" / "report" / "README.md").read_text()
    recipes = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(recipes) == 6
    for recipe in recipes:
        exec(recipe, {})
    for name, size in (("convergence.png", 10_000), ("convergence.pdf", 10_000), ("scores.csv", 5_000)):
        assert (tmp_path / name).stat().st_size > size
    assert len(pd.read_csv(tmp_path / "compared.csv")) == 2
    plt.close("all")


def test_importing_bench_imports_neither_pandas_nor_torch_and_keeps_its_version():
    code = (
        "import sys, bench; print(bench.__version__, [n for n in ('torch', 'pandas') if n in sys.modules]); bench.load;"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split("\n")[:2] == [f"{bench.__version__} []", "False"]


def test_bench_has_no_other_name():
    with pytest.raises(AttributeError, match="module 'bench' has no attribute 'laod'"):
        bench.laod  # noqa: B018
