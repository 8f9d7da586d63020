import gzip
import json
import subprocess
import sys
import zlib
from itertools import product

import pandas as pd
import pytest
from records import ENVIRONMENT, a_config, a_score, make_record, write_rows
from scipy import stats

from bench.report.read.load import ReportError, load_study
from bench.report.tables.tables import numbers, summary, write_tables
from bench.runs.record import read_record, write_record
from bench.study.plan_file import PlannedRun, StudyPlan, write_plan


def write_run(
    root, method="hu", seed=0, value=0.5, stderr=0.1, status="completed", fingerprint="f1",
    task="t", model="m", scores=None, settings=None, rate=0.01, right=None,
):  # fmt: skip
    """Writes one run; `right` says of each item whether it is answered rightly, and makes the score."""
    value = value if right is None else sum(right) / len(right)
    identity = {"method": {"_target_": method}, "task": {"name": task}, "model": {"content": model}, "seed": seed}
    identity |= settings or {}
    config, environment = a_config(method, seed, rate, task, model), ENVIRONMENT | {"fingerprint": fingerprint}
    record = make_record(f"{method}-{seed}-{rate:g}", status, method.upper(), config, identity, environment)
    count = 0 if method == "none" else 1000
    record.initialization = {"num_trainable": count, "num_head": 0, "calibration": {"total_seconds": 1.0}}
    record.training = {} if method == "none" else {"num_steps": 3, "eval_loss": 1.0}
    record.phases = {"calibrate": {"seconds": 0.01}, "initialise": {"seconds": 0.5}, "train": {"seconds": 7.0 + seed}}
    record.scores = [a_score(value, stderr=stderr)] if scores is None else scores
    digest = zlib.crc32(json.dumps([task, model, settings, rate], sort_keys=True).encode())
    folder = root / "study" / f"{method}-{seed}-{digest:08x}"
    folder.mkdir(parents=True)
    write_record(folder, record)
    if right is not None:
        item = {"task": "t", "filter": "none"}
        items = [item | {"doc_id": i, "doc_hash": f"h{i}", "metrics": {"acc": float(x)}} for i, x in enumerate(right)]
        text = "".join(json.dumps(row) + "\n" for row in items)
        (folder / "outcomes.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    if method != "none":
        rows = [{"step": step, "loss": 3.0 / step, "eval_loss": 3.0 / step} for step in (1, 2, 3)]
        write_rows(folder / "curve.jsonl", rows)
        measures = [("cosine", 0.5), ("captured_energy", 0.3)]
        aligned = [{"step": s, "layer": "all", "measure": m, "value": v} for s in (0, 2) for m, v in measures]
        write_rows(folder / "alignment.jsonl", aligned)
    return folder


def test_a_row_is_a_cell_and_its_n_the_seeds(tmp_path):
    for seed, value in enumerate((0.4, 0.5, 0.6)):
        write_run(tmp_path, "hu", seed, value)
    write_run(tmp_path, "none", 0, 0.1)
    table = summary(load_study(tmp_path, "study"))
    assert list(table["method"]) == ["NONE", "HU"]
    assert list(table["n"]) == ["1", "3"]
    assert table["t acc %"][1].startswith("**50.0 [") or table["t acc %"][1].startswith("50.0 [")
    assert list(table["train s"]) == ["7.0", "8.0"]
    assert list(table["init s"]) == ["1.50", "1.50"]


def test_missing_is_a_dash(tmp_path):
    write_run(tmp_path, "none")
    write_run(tmp_path, "hu", settings={"rank": {"r": 4}})
    write_run(tmp_path, "hu", settings={"rank": {"r": 8}})
    table = summary(load_study(tmp_path, "study"))
    assert list(table["rank.r"]) == ["–", "4", "8"]
    assert table["learning rate"][0] == "–"


@pytest.mark.parametrize(("spread", "stderr", "bold"), [(0.001, 0.001, True), (0.2, 0.001, False), (0.001, 0.1, False)])
def test_best_is_bold_only_when_seeds_and_items_leave_the_runner_up_out(tmp_path, spread, stderr, bold):
    for seed, shift in enumerate((-1, 0, 1)):
        write_run(tmp_path, "hu", seed, 0.5 + shift * spread, stderr)
        write_run(tmp_path, "lora_ga", seed, 0.6 - shift * spread, stderr)
    table = summary(load_study(tmp_path, "study"))
    assert [text.startswith("**") for text in table["t acc %"]] == [False, bold]


def test_the_csv_holds_the_numbers_unrounded(tmp_path):
    write_run(tmp_path, "hu", 0, 1 / 3)
    frame = numbers(load_study(tmp_path, "study"))
    assert frame["mean"][0] == 1 / 3
    assert frame["trainable_parameters"][0] == 1000


def test_task_and_model_are_no_axes_and_neither_is_what_they_imply(tmp_path):
    for task, content in (("sst2", "a" * 64), ("mrpc", "b" * 64)):
        for model, kind in (("m1", "encoder"), ("m2", "causal")):
            used = {"model": {"content": model, "kind": kind, "target_modules": None, "dtype": "float32"}}
            used["task"] = {"name": task, "score": [task], "datasets": {task: {"content": {"test": content}}}}
            write_run(tmp_path, "none", task=task, model=model, settings=used)
            learned = {"train": [task], "datasets": {task: {"content": {"test": content, "train": content[::-1]}}}}
            for r in (4, 16):
                settings = used | {"task": used["task"] | learned, "rank": {"r": r}}
                write_run(tmp_path, "hu", task=task, model=model, settings=settings)
    study = load_study(tmp_path, "study")
    assert list(study.by_task_and_model) == [("mrpc", "m1"), ("mrpc", "m2"), ("sst2", "m1"), ("sst2", "m2")]
    for part in study.by_task_and_model.values():
        assert [cell.title for cell in part.cells] == ["NONE", "HU, r 4", "HU, r 16"]


def test_how_often_alignment_was_measured_sets_no_runs_apart(tmp_path):
    for seed in range(3):
        write_run(tmp_path, "hu", seed, 0.5 + seed / 10, settings={"measure": {"alignment_steps": 5 * seed}})
    write_run(tmp_path, "hu", 1, 0.6, settings={"measure": {"alignment_steps": 0}})  # the same run once more
    (cell,) = load_study(tmp_path, "study").cells
    assert [(run.config.seed, run.identity["measure"]["alignment_steps"]) for run in cell.runs] == [
        (0, 0),
        (1, 5),
        (2, 10),
    ]


def test_what_is_swept_is_an_axis_though_every_row_has_a_learning_rate_of_its_own(tmp_path):
    runs = []
    for place, (method, steps) in enumerate(product(("hu", "lora_ga"), (50, 150))):
        rate = 1e-3 * (place + 1)
        write_run(tmp_path, method, rate=rate, settings={"train": {"learning_rate": rate, "max_steps": steps}})
        group = (f"method={method}", f"train.max_steps={steps}")
        runs.append(PlannedRun("tuned", group, (), f"{method}-0-{rate:g}"))
    write_plan(tmp_path / "study", StudyPlan("study", ("tuned",), tuple(runs)))
    assert [cell.title for cell in load_study(tmp_path, "study").cells] == [
        "HU, max_steps 50", "HU, max_steps 150", "LORA_GA, max_steps 50", "LORA_GA, max_steps 150",
    ]  # fmt: skip


def nested(train, number):
    return {"task": {"name": "t", "train": train, "nested": {"deep": {"of": [{"k": number}]}}}}


@pytest.mark.parametrize(
    ("settings", "axes"),
    [
        (  # data or weights that differ under one name are told apart by the start of their hash
            [{"model": {"content": digit * 64, "kind": kind}} for digit, kind in (("1", "causal"), ("2", "encoder"))],
            [{"model.content": "1" * 8}, {"model.content": "2" * 8}],
        ),
        (
            [nested(["a"], 1), nested(["a", "b"], 1), nested(["a", "b"], 2)],
            [
                {"task.nested.deep.of": "{'k': 1}", "task.train": "a"},
                {"task.nested.deep.of": "{'k': 1}", "task.train": "a,b"},
                {"task.nested.deep.of": "{'k': 2}", "task.train": "a,b"},
            ],
        ),
    ],
)
def test_a_hash_a_list_or_a_nested_setting_can_be_an_axis(tmp_path, settings, axes):
    for own in settings:
        write_run(tmp_path, settings=own)
    assert [cell.axes for cell in load_study(tmp_path, "study").cells] == axes


def test_a_corrupt_record_is_named_and_left_out(tmp_path, capsys):
    write_run(tmp_path, "hu")
    broken = write_run(tmp_path, "lora_ga")
    (broken / "record.json").write_text("{")
    study = load_study(tmp_path, "study")
    assert study.unreadable == [broken.name]
    assert f"{broken.name}/record.json" in capsys.readouterr().err
    assert broken.name in write_tables(study, tmp_path / "tables")


def test_a_failed_run_is_named_and_not_counted(tmp_path):
    write_run(tmp_path, "hu", 0)
    write_run(tmp_path, "hu", 1, status="failed")
    text = write_tables(load_study(tmp_path, "study"), tmp_path / "tables")
    assert "Failed, not counted: `hu-1-0.01`" in text
    assert "Failed runs, not counted: HU 1." in text
    assert summary(load_study(tmp_path, "study"))["n"][0] == "1"


def test_planned_runs_without_a_record_are_counted_below_the_table(tmp_path):
    write_run(tmp_path, "hu", 0)
    ids = ("hu-0-0.01", "hu-1-0.01", None, "hu-2-0.01")
    runs = [PlannedRun("run", ("method=hu",), (f"seed={n}",), run_id) for n, run_id in enumerate(ids)]
    write_plan(tmp_path / "study", StudyPlan(None, ("run",), tuple(runs)))
    text = write_tables(load_study(tmp_path, "study"), tmp_path / "tables")
    assert (
        "Unfinished study: 2 of 3 planned runs have no record, and the learning rate of 1 more is not chosen yet."
        in text
    )
    write_plan(tmp_path / "study", StudyPlan(None, ("run",), (runs[0],)))
    assert "Unfinished" not in write_tables(load_study(tmp_path, "study"), tmp_path / "tables")


def test_two_stacks_are_not_mixed_unless_asked(tmp_path):
    write_run(tmp_path, "hu", 0)
    write_run(tmp_path, "hu", 1, fingerprint="f2")
    with pytest.raises(ReportError, match="2 software or hardware stacks"):
        load_study(tmp_path, "study")
    assert len(load_study(tmp_path, "study", mix=True).cells[0].runs) == 2


@pytest.mark.parametrize("key", ["train", "score"])
def test_two_precisions_are_not_mixed_unless_asked(tmp_path, key):
    write_run(tmp_path, "hu", 0)
    write_run(tmp_path, "hu", 1)
    (folder,) = (tmp_path / "study").glob("hu-1-*")
    record = read_record(folder)
    if key == "train":
        record.config.train.precision = "bf16"
    else:
        record.config.score = {"precision": "bf16"}
    write_record(folder, record)
    with pytest.raises(ReportError, match=rf"several precisions \({key}\.precision=bf16 and fp32\)"):
        load_study(tmp_path, "study")
    assert len(load_study(tmp_path, "study", mix=True).cells[0].runs) == 2


def test_the_command_line_needs_no_torch_and_says_what_is_wrong_in_a_line(tmp_path):
    write_run(tmp_path, "hu")
    code = (
        "import sys, bench.report.__main__ as m; sys.argv = ['x', 'study', '--results-dir', sys.argv[1]]; m.main(); "
        "print('heavy:', [n for n in ('torch', 'transformers', 'peft', 'hydra') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "heavy: []" in done.stdout
    wrong = [sys.executable, "-m", "bench.report", "nosuch", "--results-dir", str(tmp_path)]
    refused = subprocess.run(wrong, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1


def answers(num_right, num_items=100, start=0):
    """A run that is right on consecutive items."""
    return [start <= i < start + num_right for i in range(num_items)]


def test_one_seed_says_that_its_interval_is_over_items_only(tmp_path):
    write_run(tmp_path, "hu", right=answers(50))
    write_run(tmp_path, "lora_ga", right=answers(60))
    write_run(tmp_path, "lora_ga", 1, right=answers(61))
    text = write_tables(load_study(tmp_path, "study"), tmp_path / "tables")
    assert "One seed: interval over items only (HU)." in text
    frame = numbers(load_study(tmp_path, "study"))
    assert list(frame["interval_over"]) == ["items", "seeds and items"]
    assert frame["items_stderr"][0] == pytest.approx((0.5 * 0.5 / 99) ** 0.5)


def test_two_methods_of_one_seed_are_compared_by_mcnemar_on_the_same_items(tmp_path):
    # hu alone is right on 2 items, lora_ga alone on 12: exact two-sided p = 2 P(X <= 2 | 14, 1/2) = 2 * 106 / 16384
    write_run(tmp_path, "hu", right=answers(50))
    write_run(tmp_path, "lora_ga", right=answers(60, start=2))
    study = load_study(tmp_path, "study")
    write_tables(study, tmp_path / "tables")
    rows = pd.read_csv(tmp_path / "tables" / "comparisons.csv")
    assert len(rows) == 1  # the best against the runner-up is also the one against LoRA
    assert rows["p_items"][0] == rows["p_holm"][0] == pytest.approx(2 * 106 / 16384)
    assert (rows["first"][0], rows["second"][0], rows["paired_items"][0]) == ("LORA_GA", "HU", 100)
    assert rows["difference"][0] == pytest.approx(0.10)
    text = write_tables(study, tmp_path)
    assert "none of 1 comparison is significant after Holm's correction; smallest p: LORA_GA − HU " in text  # one seed


def test_paired_items_tell_apart_what_intervals_alone_do_not(tmp_path):
    write_run(tmp_path, "hu", right=answers(50))
    write_run(tmp_path, "lora_ga", right=answers(60))  # right wherever hu is, and on ten more: p = 2 / 2^10
    table = summary(load_study(tmp_path, "study"))["t acc %"]
    write_tables(load_study(tmp_path, "study"), tmp_path / "tables")
    assert pd.read_csv(tmp_path / "tables" / "comparisons.csv")["p_items"][0] == pytest.approx(2 / 2**10)
    assert table[1].startswith("60.0 [")  # and not bold: one seed
    low = float(table[1].partition("[")[2].partition(",")[0])
    assert low < 59  # the runner-up's interval reaches there
    assert float(table[0].partition(", ")[2].rstrip("]")) > low


def test_items_that_differ_are_not_paired(tmp_path):
    write_run(tmp_path, "hu", right=answers(50))
    write_run(tmp_path, "lora_ga", right=answers(54, num_items=90))
    write_tables(load_study(tmp_path, "study"), tmp_path / "tables")
    rows = pd.read_csv(tmp_path / "tables" / "comparisons.csv")
    assert rows["paired_items"].isna().all()


def test_luck_of_one_seed_is_no_difference_between_methods(tmp_path):
    for seed, (one, other) in enumerate(((50, 52), (50, 52), (50, 96))):
        write_run(tmp_path, "hu", seed, right=answers(one))
        write_run(tmp_path, "lora_ga", seed, right=answers(other))
    write_tables(load_study(tmp_path, "study"), tmp_path / "tables")
    row = pd.read_csv(tmp_path / "tables" / "comparisons.csv").iloc[0]
    assert row["p_items"] < 0.001 < 0.05 < row["p_seeds"] == row["p"]
    assert row["p_seeds"] == pytest.approx(stats.ttest_ind((0.52, 0.52, 0.96), (0.5, 0.5, 0.5), equal_var=False).pvalue)
    assert not row["is_significant"]


def test_a_table_names_its_minimum_detectable_effect(tmp_path):
    for seed, shift in enumerate((-0.01, 0, 0.01)):
        write_run(tmp_path, "hu", seed, 0.5 + shift, stderr=None)
        write_run(tmp_path, "lora_ga", seed, 0.5 + shift, stderr=None)
    text = write_tables(load_study(tmp_path, "study"), tmp_path / "tables")
    # standard deviation 0.01, Welch's t over 3 and 3 seeds: 3.51 / sqrt(1 / 2) of it (tests/test_power.py)
    assert "probability 0.8 (two-sided α = 0.05, n = 3 seeds): t acc 3.5 points." in text


def test_all_tables_are_the_same_bytes_in_any_order_of_runs(tmp_path):
    for order in ((0, 1, 2), (2, 0, 1)):
        root = tmp_path / str(order[0])
        for seed in order:
            for method in ("hu", "lora_ga", "none")[:: 1 if order[0] else -1]:
                write_run(root, method, seed, right=answers(50 + seed, start=len(method)))
        write_tables(load_study(root, "study"), root / "tables")
    names = {path.name for path in (tmp_path / "0" / "tables").iterdir()}
    assert names == {f"{name}.{kind}" for name in ("results", "comparisons") for kind in ("md", "csv", "tex")}
    for name in names:
        assert (tmp_path / "0" / "tables" / name).read_bytes() == (tmp_path / "2" / "tables" / name).read_bytes()


def staged(root, more=0, reserve=None):
    """Two methods: three rates each on the validation split, tuned, and lora_ga also as published.

    Args:
        more: rates that the search of lora_ga had beyond those.
        reserve: of the plan.
    """
    runs = []

    def run(stage, method, seed, rate, value, **about):
        write_run(root, method, seed, value, 0.01, rate=rate, settings={"at": [stage, rate]}, **about)
        runs.append(PlannedRun(stage, (f"method={method}",), (), f"{method}-{seed}-{rate:g}"))

    for method, best in (("hu", 1), ("lora_ga", 2)):
        for place, rate in enumerate((0.001, 0.003, 0.01)):
            run("select", method, 100, rate, 0.5 - abs(place - best) / 10)
        for seed in (0, 1):
            run("tuned", method, seed, (0.001, 0.003, 0.01)[best], 0.6 + seed / 100)
    for place in range(more):
        run("select", "lora_ga", 100, 0.1 * (1 + place), 0.1)
    run("published", "lora_ga", 0, 0.02, 0.4)
    run("published", "lora_xs", 0, 0.05, 0.3)
    run("published", "lora_xs", 1, 0.05, 0.3, status="failed")
    plan = StudyPlan("a/study", ("select", "tuned", "published"), tuple(runs), reserve=reserve)
    write_plan(root / "study", plan)
    return load_study(root, "study")


def test_a_table_of_searches_that_had_unequally_many_fits_is_refused(tmp_path):
    message = r"searches of 3 \(hu\); 5 \(lora_ga\) fits, more apart than its reserve of 1: .* or say --mix"
    with pytest.raises(ReportError, match=message):
        staged(tmp_path / "refused", more=2, reserve=1)
    assert load_study(tmp_path / "refused", "study", mix=True).cells
    assert staged(tmp_path / "spent", more=2, reserve=2).cells  # of the reserve, which every row has
    assert staged(tmp_path / "before", more=2).cells  # a plan from before a reserve was stated


def test_rows_of_stages_match_by_group_and_missing_ones_are_dashes(tmp_path):
    table = summary(staged(tmp_path)).set_index("method")
    assert list(table.index) == ["HU", "LORA_GA", "LORA_XS"]
    assert list(table["learning rate"]) == ["0.003", "0.01 (edge)", "–"]
    assert list(table["n"]) == ["2", "2", "–"]
    assert table["t acc %"]["LORA_XS"] == "–"
    assert list(table["published: learning rate"]) == ["–", "0.02", "0.05"]
    assert list(table["published: n"]) == ["–", "1", "1"]
    assert [text[:4] for text in table["as published: t acc %"]] == ["–", "40.0", "30.0"]


def test_a_best_rate_at_the_edge_is_explained_with_the_command_that_extends_it(tmp_path):
    text = write_tables(staged(tmp_path), tmp_path / "tables")
    assert "Learning rates: the best of 3 a row on the validation split" in text
    assert (
        "a better one may lie beyond: LORA_GA upper; "
        "`python -m bench.run -m +experiments=study hydra.sweeper.rates.reserve=4`" in text
    )
    assert "Failed runs, not counted: LORA_XS 1." in text


def test_the_whole_curve_over_learning_rates_has_a_table(tmp_path):
    write_tables(staged(tmp_path), tmp_path / "tables")
    rows = [line.split("|")[1:-1] for line in (tmp_path / "tables" / "rates.md").read_text().splitlines()]
    assert [[text.strip() for text in row] for row in (rows[0], *rows[2:])] == [
        ["method", "metric", "0.001", "0.003", "0.01", "points", "n"],
        ["HU", "acc", "40.0", "**50.0**", "40.0", "3", "1"],
        ["LORA_GA", "acc", "30.0", "40.0", "**50.0** (edge)", "3", "1"],
    ]
    frame = pd.read_csv(tmp_path / "tables" / "rates.csv")
    assert list(frame["best"]) == [False, True, False, False, False, True]
    assert r"\textbf{50.0} (edge)" in (tmp_path / "tables" / "rates.tex").read_text()


def test_a_record_of_another_schema_is_named_and_left_out(tmp_path, capsys):
    write_run(tmp_path, "none")
    folder = write_run(tmp_path, "hu")
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | {"schema_version": 2}))
    study = load_study(tmp_path, "study")
    assert "schema '2', this version reads 3, 4" in capsys.readouterr().err
    assert [cell.method for cell in study.cells] == ["none"]
    assert f"Not readable, left out: `{folder.name}`" in write_tables(study, tmp_path / "tables")


def test_a_study_without_records_says_which_command_makes_them(tmp_path):
    with pytest.raises(
        ReportError, match=r"no study 'demo' in .*; there are: none; python -m bench.run -m \+experiments=demo makes it"
    ):
        load_study(tmp_path, "demo")


def test_a_study_in_stages_shows_the_tuned_one_and_keeps_the_curve_of_the_selection(tmp_path):
    write_run(tmp_path, "hu", 7, 0.9, settings={"of": "no stage"})
    study = staged(tmp_path)
    assert (study.stage, study.stages) == ("tuned", ("select", "tuned", "published"))
    assert [(cell.method, cell.learning_rate, len(cell.runs)) for cell in study.cells] == [
        ("hu", 0.003, 2),
        ("lora_ga", 0.01, 2),
    ]
    first, second = study.selection
    assert [point.values for point in first.points] == [(0.4,), (0.5,), (0.4,)]
    assert (first.best.learning_rate, first.at_edge, second.at_edge) == (0.003, None, "upper")
    assert len(study.at("select").cells) == 6


def test_a_torn_plan_is_an_error_of_one_line(tmp_path):
    staged(tmp_path)
    (tmp_path / "study" / "study.json").write_text("{")
    with pytest.raises(ReportError, match=r"study\.json: invalid json"):
        load_study(tmp_path, "study")
