import base64
import hashlib
import json
import re
import shlex
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from browser.staged import PLANTED, TABLES, a_figure, a_record, many_runs, staged_study, write_record
from records import make_record

from bench.report.figures.choice import KINDS, RATES
from bench.report.page import write_page
from bench.report.page.figures import CAPTIONS
from bench.report.page.rerun import rerun_command
from bench.report.page.runs import page_runs
from bench.report.read.load import load_study

ROOT = Path(__file__).parents[1]


@pytest.fixture
def staged(tmp_path):
    return staged_study(tmp_path)


def data_of(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(text)


def by_id(study):
    return {run.run_id: run for run in page_runs(study) if run.run_id}


def test_every_planned_and_recorded_run_is_one_row(staged):
    runs = page_runs(staged)
    found = {(run.method, run.seed, run.rank, run.learning_rate, run.status) for run in runs}
    assert len(runs) == len(found) == 12
    statuses = [run.status for run in runs]
    assert {status: statuses.count(status) for status in statuses} == {
        "completed": 6, "failed": 1, "unreadable": 1, "missing": 2, "waiting": 1, "refused": 1,
    }  # fmt: skip


def test_a_run_of_two_stages_is_in_both(staged):
    assert by_id(staged)["hu-0"].stages == ("tuned", "shared")


def test_the_stages_come_in_their_order_and_the_methods_in_theirs(staged):
    runs = page_runs(staged)
    assert [run.stages[0] for run in runs] == ["select"] * 2 + ["tuned"] * 9 + ["shared"]
    tuned = [run.method for run in runs if run.stages[0] == "tuned"]
    assert list(dict.fromkeys(tuned)) == ["full_ft", "hu", "pissa", "eva", "lora_ga"]


def test_the_command_is_the_plans(staged):
    run = by_id(staged)["ff-1"]
    assert run.command == (
        "python -m bench.run +experiments=paper/staged method=full_ft rank=r8 train.learning_rate=1e-05 seed=1 "
        "hydra.mode=RUN"
    )


def test_a_run_without_record_takes_what_the_plan_leaves_open_from_the_records(staged):
    run = by_id(staged)["ff-1"]
    assert (run.label, run.rank, run.task, run.model) == ("Full FT", "–", "t", "m")
    other = by_id(staged)["hu-16"]
    assert (other.label, other.rank, other.status) == ("LoRA", "r16", "missing")


def test_a_failed_run_says_why(staged):
    assert by_id(staged)["ga-1"].reason == f"RuntimeError: loss is not finite {PLANTED} (step 7)"


def test_a_refused_run_says_why(staged):
    (run,) = [run for run in page_runs(staged) if run.status == "refused"]
    assert run.reason == "pissa needs W in float32"


def test_scores_are_printed_as_in_the_tables_and_an_undefined_one_is_a_dash(staged):
    scores = by_id(staged)["hu-1"].scores
    assert [(score.name, score.text) for score in scores] == [("acc", "9.7 %"), ("f1", "–")]


def test_seconds_are_those_of_all_phases(staged):
    assert by_id(staged)["hu-1"].seconds == 12.5


def test_a_run_that_was_not_scored_shows_its_held_out_loss(staged):
    _, record = staged.members[0]
    record.scores = []
    assert [(score.name, score.text) for score in by_id(staged)[record.run_id].scores] == [("held-out loss", "1.000")]


def test_nothing_of_a_record_is_markup(staged, tmp_path):
    page = write_page(staged, TABLES, [], tmp_path / "page").read_text()
    assert "<img src=x" not in page
    assert page.count("</script>") == page.count("<script") == 2
    assert data_of(tmp_path / "page" / "index.html")["tables"][0]["rows"][2][0] == PLANTED


def test_a_study_named_like_markup_stays_text(staged, tmp_path):
    page = write_page(replace(staged, name="<b>$x</b>"), [], [], tmp_path).read_text()
    assert "<b>" not in page
    assert "<title>&lt;b&gt;$x&lt;/b&gt;</title>" in page


def test_the_policy_admits_this_style_and_this_script_only(staged, tmp_path):
    page = write_page(staged, TABLES, [], tmp_path).read_text()
    (policy,) = re.findall('http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    allowed = dict(part.split(" ", 1) for part in policy.split("; "))
    for tag, key in (("style", "style-src"), ('script type="module"', "script-src")):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag.split()[0]}>", page, re.DOTALL)
        assert allowed[key] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert allowed["default-src"] == "'none'"
    assert allowed["img-src"] == "data:"


def test_the_page_loads_nothing(staged, tmp_path):
    figure = a_figure(tmp_path / "figures" / "loss.png")
    page = write_page(staged, TABLES, [figure], tmp_path).read_text()
    assert re.findall(r'(?:src|srcset|action)="(?!data:)', page) == []
    assert re.findall(r"https?://", page) == []
    assert re.findall(r"url\(|@import", page) == []


def test_figures_carry_their_size_their_name_and_links_to_what_lies_beside_them(staged, tmp_path):
    figure = a_figure(tmp_path / "figures" / "loss_t.png", 40, 30)
    (tmp_path / "figures" / "loss_t.csv").write_text("x\n")
    page = write_page(staged, [], [figure, tmp_path / "figures" / "loss_t.pdf"], tmp_path).read_text()
    (image,) = re.findall("<img loading[^>]+>", page)
    assert 'alt="loss t" width="40" height="30"' in image
    assert base64.b64encode(figure.read_bytes()).decode() in image
    assert '<a href="figures/loss_t.csv">data (CSV)</a>' in page
    assert "PDF" not in page.partition("<figcaption>")[2].partition("</figcaption>")[0]


def test_a_figure_of_the_report_says_what_it_shows(staged, tmp_path):
    figure = a_figure(tmp_path / "figures" / "cost-gsm_tiny-tiny-llama.png")
    page = write_page(staged, [], [figure], tmp_path).read_text()
    assert 'alt="Seconds and peak memory of initialisation (gsm_tiny, tiny-llama)"' in page


def test_every_figure_of_the_report_has_a_caption():
    assert {*KINDS, RATES} == set(CAPTIONS)


def test_numbers_that_are_missing_are_dashes(staged, tmp_path):
    table = pd.DataFrame({"a": [1.5, float("nan"), None], "b": [True, False, pd.NA], "c": ["x", None, 1e-7]})
    page = write_page(staged, [("t", table, [])], [], tmp_path)
    assert data_of(page)["tables"][0]["rows"] == [["1.5", "yes", "x"], ["–", "no", "–"], ["–", "–", "1e-07"]]


def test_a_configuration_with_numbers_that_json_lacks_still_makes_a_page(staged, tmp_path):
    staged.members[0][1].config.train.max_grad_norm = float("inf")
    page = write_page(staged, [], [], tmp_path)
    sections = [section for section in data_of(page)["sections"] if isinstance(section, dict)]
    assert "inf" in [section.get("max_grad_norm") for section in sections]


def test_equal_records_give_equal_bytes_in_any_order(staged, tmp_path):
    first = write_page(staged, TABLES, [], tmp_path / "a").read_bytes()
    turned = replace(staged, members=staged.members[::-1], unreadable=staged.unreadable[::-1])
    assert write_page(turned, TABLES, [], tmp_path / "b").read_bytes() == first


def test_the_head_counts_the_runs_and_names_the_stack(staged, tmp_path):
    page = write_page(staged, [], [], tmp_path).read_text()
    assert "6 completed, 1 failed, 1 unreadable, 2 missing, 1 waiting, 1 refused" in page
    assert "torch 2.13.0, transformers 5.23.0, peft 0.21.2, c, threads: 1" in page
    assert "python -m bench.run -m +experiments=paper/staged" in page
    assert "<p>Planned and not done: 2 of 12 runs.</p>" in page


def test_ten_thousand_runs_make_a_page_of_few_megabytes_in_seconds(tmp_path):
    study = many_runs(tmp_path, 10_000)
    began = time.process_time()
    page = write_page(study, TABLES, [], tmp_path)
    assert time.process_time() - began < 10
    assert page.stat().st_size < 8_000_000
    data = data_of(page)
    assert len(data["runs"]) >= 10_000
    assert len([cell for cell in data["cells"] if "\0" in cell["command"]]) >= 2_000 > len(data["cells"]) - 100


def test_a_study_without_a_plan_shows_its_records(tmp_path):
    write_record(tmp_path / "plain", a_record("hu-0"))
    (run,) = page_runs(load_study(tmp_path, "plain"))
    assert (run.stages, run.status, run.rank, run.seed) == (("run",), "completed", "r8", 0)


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=hu", "method.distribution=gaussian", "rank=r4", "rank.lora_alpha=3", "train.learning_rate=3e-05"],
        ["method=lora_ga", "method.gamma=8", "svd.tolerance=0.01", "task.calibration_samples=5", "seed=7"],
        ["method=full_ft", "train.max_grad_norm=0.5", "task.train_samples=null", "measure=none"],
        ["method=none", "score.limit=3", "score.split=selection"],
        ["method=lora_xs", "model.target_modules=[q_proj,v_proj]", "adapter.use_dora=false", "train.max_steps=5"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_the_command_of_a_run_without_a_plan_makes_the_same_run(compose_run, overrides):
    run = compose_run("study=x", *overrides)
    record = make_record(run.run_id, "completed", "L", run.to_dict(), run.identity, {})
    python, flag, module, *again = shlex.split(rerun_command(record))
    assert (python, flag, module) == ("python", "-m", "bench.run")
    same = compose_run(*again)
    assert (same.run_id, same.study) == (run.run_id, run.study)
