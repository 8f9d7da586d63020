import json
import math
import subprocess
import sys
import zlib
from dataclasses import asdict

import pytest

from bench.record import Record
from bench.report.figures import COLOURS, colour, convergence, score_against_parameters, write_figures
from bench.report.load import ReportError, load_study
from bench.report.metrics import CORRELATION, SHARE
from bench.report.statistics import estimate
from bench.report.tables import numbers, summary, write_tables

ENVIRONMENT = {
    "fingerprint": "f1",
    "versions": {"torch": "2", "transformers": "5"},
    "hardware": {"gpu": None, "cpu": "c", "num_threads": 1},
}


def a_score(value=0.5, task="t", metric="acc", stderr=0.1, majority=None):
    about = {"num_examples": 10, "higher_is_better": True, "majority": majority}
    return {"task": task, "metric": metric, "value": value, "stderr": stderr} | about


def write_run(
    root, method="hu", seed=0, value=0.5, stderr=0.1, status="completed", fingerprint="f1",
    task="t", model="m", scores=None, settings=None,
):  # fmt: skip
    identity = {"method": {"_target_": method}, "task": {"name": task}, "model": {"content": model}, "seed": seed}
    identity |= settings or {}
    config = {
        "method": {"name": method},
        "seed": seed,
        "train": {"learning_rate": 0.01},
        "task": {"name": task},
        "model": {"name": model},
    }
    record = Record(
        f"{method}-{seed}", status, method.upper(), config, identity, ENVIRONMENT | {"fingerprint": fingerprint}
    )
    record.initialization = {"num_trainable": 0 if method == "none" else 1000, "num_head": 0}
    record.initialization["calibration"] = {"total_seconds": 1.0}
    record.training = {} if method == "none" else {"num_steps": 3, "held_out_loss": 1.0}
    record.phases = {"calibrate": {"seconds": 0.01}, "initialise": {"seconds": 0.5}, "train": {"seconds": 7.0 + seed}}
    record.scores = [a_score(value, stderr=stderr)] if scores is None else scores
    digest = zlib.crc32(json.dumps([task, model, settings], sort_keys=True).encode())
    folder = root / "study" / f"{method}-{seed}-{digest:08x}"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(asdict(record)))
    if method != "none":
        rows = [{"step": step, "loss": 3.0 / step, "held_out_loss": 3.0 / step} for step in (1, 2, 3)]
        (folder / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        measures = [("cosine", 0.5), ("captured_energy", 0.3)]
        aligned = [{"step": s, "layer": "all", "measure": m, "value": v} for s in (0, 2) for m, v in measures]
        (folder / "alignment.jsonl").write_text("".join(json.dumps(row) + "\n" for row in aligned))
    return folder


def test_the_interval_over_seeds_is_students_t():
    # mean 2, standard deviation 1, n 3: t(0.975, 2) = 4.3027, half width 4.3027/sqrt(3) = 2.4842, here in hundredths
    found = estimate([0.51, 0.52, 0.53], None, SHARE)
    assert (found.mean, found.over, found.n) == (pytest.approx(0.52), "seeds", 3)
    assert found.high - found.mean == pytest.approx(0.024842, abs=1e-6)


def test_the_interval_of_one_run_is_over_its_items():
    found = estimate([0.5], 0.1, SHARE)
    assert found.over == "items"
    assert found.low == pytest.approx(0.5 - 1.959964 * 0.1)


def test_an_interval_stays_within_what_the_metric_can_be():
    assert estimate([0.9, 1.0], None, SHARE).high == 1.0
    assert estimate([-0.9, 0.9], None, CORRELATION).low == -1.0


def test_nothing_is_claimed_of_one_run_without_a_standard_error():
    found = estimate([0.5], None, SHARE)
    assert (found.low, found.high, found.over) == (None, None, "nothing")


def test_a_mean_that_is_not_finite_has_no_interval():
    assert estimate([math.inf, 2.0, 3.0], None, SHARE).low is None
    assert estimate([math.nan, 0.2], None, SHARE).over == "nothing"


def test_an_interval_clear_of_a_value_is_clear_by_more_than_rounding():
    equal = estimate([0.1 + 0.2], 0.0, SHARE)
    assert equal.low > 0.3  # by the last bit
    assert not equal.clear_of(0.3, higher_is_better=True)
    assert equal.clear_of(0.299, higher_is_better=True)
    assert equal.clear_of(0.301, higher_is_better=False)
    assert not equal.clear_of(0.299, higher_is_better=False)


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


@pytest.mark.parametrize(("spread", "bold"), [(0.001, True), (0.2, False)])
def test_best_is_bold_only_when_its_interval_leaves_the_runner_up_out(tmp_path, spread, bold):
    for seed, shift in enumerate((-1, 0, 1)):
        write_run(tmp_path, "hu", seed, 0.5 + shift * spread)
        write_run(tmp_path, "lora_ga", seed, 0.6 + shift * spread)
    table = summary(load_study(tmp_path, "study"))
    assert [text.startswith("**") for text in table["t acc %"]] == [False, bold]


def test_the_csv_holds_the_numbers_unrounded(tmp_path):
    write_run(tmp_path, "hu", 0, 1 / 3)
    frame = numbers(load_study(tmp_path, "study"))
    assert frame["mean"][0] == 1 / 3
    assert frame["trainable_parameters"][0] == 1000


def test_equal_records_give_equal_bytes(tmp_path):
    for seed in range(3):
        write_run(tmp_path, "hu", seed, 0.3 + seed / 10)
        write_run(tmp_path, "lora_xs", seed, 0.2)
    for name in ("one", "two"):
        write_tables(load_study(tmp_path, "study"), tmp_path / name)
    for file in ("results.md", "results.csv", "results.tex"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_latex_is_escaped(tmp_path):
    write_run(tmp_path, "lora_ga")
    write_tables(load_study(tmp_path, "study"), tmp_path / "tables")
    text = (tmp_path / "tables" / "results.tex").read_text()
    assert r"LORA\_GA" in text
    assert r"t acc \%" in text


def test_every_figure_is_written_as_png_and_pdf(tmp_path):
    for seed in range(2):
        write_run(tmp_path, "hu", seed)
    write_run(tmp_path, "none")
    write_figures(load_study(tmp_path, "study"), tmp_path / "figures")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"{name}.{kind}" for name in ("convergence", "alignment", "score") for kind in ("png", "pdf")
    }


def test_several_tasks_have_figures_of_their_own_and_unscored_ones_no_score_figure(tmp_path):
    write_run(tmp_path, "hu", task="a", model="org/m", scores=[])
    write_run(tmp_path, "hu", task="b", model="m")
    names = {path.name for path in write_figures(load_study(tmp_path, "study"), tmp_path / "figures")}
    both = {f"{figure}-{place}.png" for figure in ("convergence", "alignment") for place in ("a-org-m", "b-m")}
    assert names == both | {"score-b-m.png"}


def test_the_score_figure_has_a_panel_for_each_task_in_its_unit_and_the_majority_class_as_a_thin_line(tmp_path):
    scores = [a_score(0.9, "sst2", majority=0.5), a_score(0.8, "sst2", "f1"), a_score(7.5, "wiki", "word_perplexity")]
    write_run(tmp_path, "hu", scores=scores + [a_score(0.5, f"t{number}") for number in range(4)])
    figure = score_against_parameters(load_study(tmp_path, "study").cells)
    sst2, wiki = figure.axes[:2]
    assert [axis.get_title() for axis in figure.axes] == ["sst2", "wiki", "t0", "t1", "t2", "t3"]
    assert [axis.get_subplotspec().rowspan.start for axis in figure.axes] == [0, 0, 0, 0, 1, 1]
    assert [axis.get_ylabel() for axis in (sst2, wiki)] == ["acc (%)", "word_perplexity"]
    assert [list(line.get_ydata()) for line in sst2.lines if line.get_linestyle() == "--"] == [[50.0, 50.0]]
    assert 7.5 in [line.get_ydata()[0] for line in wiki.lines]
    assert "majority class" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(("many", "ticks"), [(900, ["900"]), (1500, ["1,000", "1,500"])])
def test_counts_of_parameters_within_one_power_of_ten_are_the_ticks_unless_they_would_overlap(tmp_path, many, ticks):
    path = write_run(tmp_path, "hu") / "record.json"
    path.write_text(path.read_text().replace('"num_trainable": 1000', f'"num_trainable": {many}'))
    write_run(tmp_path, "lora_ga")
    axis = score_against_parameters(load_study(tmp_path, "study").cells).axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ticks


def test_the_legend_shows_the_markers_of_the_held_out_losses(tmp_path):
    write_run(tmp_path, "hu")
    figure = convergence(load_study(tmp_path, "study").cells)
    assert [line.get_marker() for line in figure.legends[0].get_lines()] == ["o"]


def test_the_loss_of_an_encoder_is_not_one_per_token(tmp_path):
    path = write_run(tmp_path, "hu") / "record.json"
    labels = []
    for kind in ("causal", "encoder"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model": {"kind": kind}}))
        labels.append(convergence(load_study(tmp_path, "study").cells).axes[0].get_ylabel())
    assert labels == ["training loss (nats per token)", "training loss"]


def test_methods_have_different_colours_and_an_unknown_one_keeps_its_own():
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert colour("mine") == colour("mine")
    assert colour("mine") not in COLOURS.values()


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
    assert list(study.parts) == [("mrpc", "m1"), ("mrpc", "m2"), ("sst2", "m1"), ("sst2", "m2")]
    for part in study.parts.values():
        assert [cell.title for cell in part.cells] == ["NONE", "HU, r 4", "HU, r 16"]


def test_data_or_weights_that_differ_under_one_name_are_told_apart_by_the_start_of_their_hash(tmp_path):
    write_run(tmp_path, "hu", model="local", settings={"model": {"content": "1" * 64, "kind": "causal"}})
    write_run(tmp_path, "hu", model="local", settings={"model": {"content": "2" * 64, "kind": "encoder"}})
    assert [cell.axes for cell in load_study(tmp_path, "study").cells] == [
        {"model.content": "1" * 8},
        {"model.content": "2" * 8},
    ]


def test_a_list_or_a_nested_setting_can_be_an_axis(tmp_path):
    for train, number in ((["a"], 1), (["a", "b"], 1), (["a", "b"], 2)):
        task = {"name": "t", "train": train, "nested": {"deep": {"of": [{"k": number}]}}}
        write_run(tmp_path, settings={"task": task})
    assert [cell.axes for cell in load_study(tmp_path, "study").cells] == [
        {"task.nested.deep.of": "{'k': 1}", "task.train": "a"},
        {"task.nested.deep.of": "{'k': 1}", "task.train": "a,b"},
        {"task.nested.deep.of": "{'k': 2}", "task.train": "a,b"},
    ]


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
    assert "Failed, not counted: `hu-1`" in text
    assert summary(load_study(tmp_path, "study"))["n"][0] == "1"


def test_two_stacks_are_not_mixed_unless_asked(tmp_path):
    write_run(tmp_path, "hu", 0)
    write_run(tmp_path, "hu", 1, fingerprint="f2")
    with pytest.raises(ReportError, match="2 software or hardware stacks"):
        load_study(tmp_path, "study")
    assert len(load_study(tmp_path, "study", mix=True).cells[0].runs) == 2


def test_an_unknown_study_lists_those_there_are(tmp_path):
    write_run(tmp_path, "hu")
    with pytest.raises(ReportError, match="there are: study"):
        load_study(tmp_path, "nosuch")


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
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
