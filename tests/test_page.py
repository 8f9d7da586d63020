import base64
import html
import re
import shlex
from dataclasses import replace

import pytest
from browser.staged import PLANTED, TABLES, a_figure, a_record, staged_study, write_record
from records import make_record

from bench.report.page import write_page
from bench.report.page.rerun import rerun_command
from bench.report.page.runs import page_runs
from bench.report.read.load import load_study


@pytest.fixture
def staged(tmp_path):
    return staged_study(tmp_path)


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


def test_the_stages_come_in_their_order_and_the_methods_in_theirs(staged):
    runs = page_runs(staged)
    assert [run.stages[0] for run in runs] == ["select"] * 2 + ["tuned"] * 9 + ["shared"]
    tuned = [run.method for run in runs if run.stages[0] == "tuned"]
    assert list(dict.fromkeys(tuned)) == ["full_ft", "hu", "pissa", "eva", "lora_ga"]
    assert by_id(staged)["hu-0"].stages == ("tuned", "shared")  # in both


def test_a_run_without_record_has_the_plans_command_and_from_records_what_the_plan_leaves_open(staged):
    run, other = (by_id(staged)[name] for name in ("ff-1", "hu-16"))
    assert (run.label, run.rank, run.task, run.model) == ("Full FT", "–", "t", "m")
    assert (other.label, other.rank, other.status) == ("LoRA", "r16", "missing")
    assert run.command == (
        "python -m bench.run +experiments=paper/staged method=full_ft rank=r8 train.learning_rate=1e-05 seed=1 "
        "hydra.mode=RUN"
    )


def test_the_row_of_a_run_has_its_scores_seconds_and_reason(staged):
    runs = by_id(staged)
    assert runs["hu-1"].scores == (("acc", "9.7 %"), ("f1", "–"))  # as the tables print them
    assert runs["hu-1"].score == pytest.approx(9.7)
    assert runs["hu-1"].seconds == 12.5  # of all phases
    assert runs["ga-1"].reason == f"RuntimeError: loss is not finite {PLANTED} (step 7)"
    (refused,) = [run for run in page_runs(staged) if run.status == "refused"]
    assert refused.reason == "pissa needs W in float32"


def test_a_run_that_was_not_scored_shows_its_eval_loss(staged):
    _, record = staged.members[0]
    record.scores = []
    assert by_id(staged)[record.run_id].scores == (("eval loss", "1.000"),)


def test_the_page_holds_all_that_it_shows_and_asks_for_nothing(staged, tmp_path):
    figure = a_figure(tmp_path / "figures" / "cost-gsm_tiny-tiny-llama.png")
    (tmp_path / "figures" / "cost-gsm_tiny-tiny-llama.csv").write_text("x\n")
    page = write_page(staged, TABLES, [figure], tmp_path).read_text()
    assert "content=\"default-src 'none'; img-src data:;" in page
    assert re.findall(r'(?:src|srcset|action)="(?!data:)', page) == []
    assert re.findall(r"<link (?!rel=\"icon\" href=\"data:)|@import|url\((?!data:)", page.partition("<script")[0]) == []
    assert base64.b64encode(figure.read_bytes()).decode() in page
    assert 'alt="Seconds and peak memory of initialisation (gsm_tiny, tiny-llama)"' in page
    assert re.findall('<a href="(figures.*?)">(.*?)</a>', page) == [
        ("figures/cost-gsm_tiny-tiny-llama.csv", "data (CSV)")
    ]
    for run in page_runs(staged):
        assert html.escape(run.command, quote=False) in html.unescape(page)


def test_equal_records_give_equal_bytes_in_any_order(staged, tmp_path):
    first = write_page(staged, TABLES, [], tmp_path / "a").read_bytes()
    turned = replace(staged, members=staged.members[::-1], unreadable=staged.unreadable[::-1])
    assert write_page(turned, TABLES, [], tmp_path / "b").read_bytes() == first


def test_the_head_counts_the_runs_and_names_the_stack(staged, tmp_path):
    page = write_page(staged, [], [], tmp_path).read_text()
    assert "6 completed, 1 failed, 1 unreadable, 2 missing, 1 waiting, 1 refused" in page
    assert "torch 2.13.0, transformers 5.23.0, peft 0.21.2, c, threads: 1" in page
    assert "python -m bench.run -m +experiments=paper/staged" in page
    assert "Planned and not done: 2 of 12 runs." in page


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
        ["method=none", "score.limit=3", "score.split=validation"],
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
