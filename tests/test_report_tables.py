import re
from pathlib import Path

import pandas as pd
import pytest
from records import a_config, a_score, make_record

from bench.report.read.load import Cell, Study
from bench.report.tables.tables import numbers, summary, write_tables


def score(value, task="sst2", metric="acc", stderr=0.001, **changes):
    return a_score(value, task, metric, stderr=stderr, num_examples=872, **changes)


def cell(label, *runs, task="t", model="m", num_head=0, data=None, scoring=None, axes=None, training=None):
    """A cell whose runs have these scores; "Pretrained" is one that is not trained."""
    trained = label != "Pretrained"
    records = [
        make_record(
            f"run-{seed}",
            label=label,
            config=a_config(seed=seed, task=task, model=model),
            initialization={"num_trainable": 100 if trained else 0, "num_head": num_head},
            training={"num_steps": 3, "eval_loss": 1.5 + seed} | (training or {}) if trained else {},
            scores=scores,
            data=data or {},
            scoring=scoring or {},
        )
        for seed, scores in enumerate(runs)
    ]
    return Cell(label.lower(), label, axes or {}, records, [])


def study(*cells):
    return Study("study", Path("study"), list(cells))


def markdown(tmp_path, *cells):
    return write_tables(study(*cells), tmp_path)


@pytest.mark.parametrize(
    ("metric", "value", "heading", "text"),
    [
        ("acc_norm", 0.5, "t acc_norm %", "50.0"),
        ("pearson", -0.5, "t pearson %", "-50.0"),
        ("word_perplexity", 1234.5, "t word_perplexity", "1,234.50"),
        ("word_perplexity", float("inf"), "t word_perplexity", "inf"),
        ("bits_per_byte", 0.75, "t bits_per_byte", "0.750"),
        ("mcc", None, "t mcc %", "nan"),
        ("loss", 0.0625, "t loss", "0.062"),
    ],
)
def test_a_metric_is_printed_in_its_own_unit(metric, value, heading, text):
    table = summary(study(cell("LoRA", [score(value, "t", metric, stderr=None)])))
    assert table[heading][0] == text


@pytest.mark.parametrize(
    ("metric", "low", "high"),
    [
        ("acc", 0.0, 1.0),
        ("mcc,some-filter", -1.0, 1.0),
        ("spearman", -1.0, 1.0),
        ("perplexity,none", 0.0, float("inf")),
        ("bits_per_byte", 0.0, float("inf")),
    ],
)
def test_an_interval_ends_where_the_metric_does(metric, low, high):
    frame = numbers(study(cell("LoRA", [score(0.5, metric=metric, stderr=100.0)])))
    assert frame["low"][0] == low
    assert frame["high"][0] == (high if high < 2 else pytest.approx(196.5, abs=0.1))


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("word_perplexity", {"A": (9.0, 9.1, 9.0), "B": (7.0, 7.0, 7.1), "C": (8.1, 8.0, 8.0)}, "B"),
        ("acc", {"A": (float("nan"),) * 3, "B": (0.9, 0.91, 0.9), "C": (0.5, 0.5, 0.49)}, "B"),
        ("acc", {"A": (0.1 + 0.2,) * 2, "B": (0.3,) * 2}, None),  # apart by rounding
        ("acc", {"A": (0.4,), "B": (0.9,)}, None),  # one seed, however many items tell two runs apart
    ],
)
def test_bold_is_the_best_that_is_defined_significantly_better_and_of_several_seeds(metric, values, best):
    def run(value):
        return [score(value, "t", metric, higher_is_better=metric == "acc")]

    table = summary(study(*(cell(name, *map(run, of)) for name, of in values.items()))).set_index("method")
    (texts,) = (table[name] for name in table if name.startswith(f"t {metric}"))
    assert [name for name, text in texts.items() if text.startswith("**")] == ([best] if best else [])


def test_the_note_says_which_direction_is_bold(tmp_path):
    perplexity = score(7.0, "wiki", "word_perplexity", higher_is_better=False)
    assert "Bold: the highest mean," in markdown(tmp_path, cell("A", [score(0.5)]))
    assert "Bold: the lowest mean," in markdown(tmp_path, cell("A", [perplexity]))
    both = markdown(tmp_path, cell("A", [score(0.5), perplexity]))
    assert "Bold: the best (of word perplexity the lowest, else the highest) mean," in both


def test_a_trained_method_that_is_not_above_the_majority_class_has_a_dagger(tmp_path):
    stuck, above = [score(0.1 + 0.2, majority=0.3, stderr=0.0)], [[score(0.9 + n / 100, majority=0.3)] for n in (0, 1)]
    touching = [score(0.31, majority=0.3, stderr=0.02)]
    cells = [cell("Pretrained", [score(0.1, majority=0.3)]), cell("A", stuck), cell("B", touching), cell("C", *above)]
    table = summary(study(*cells))
    assert list(table["method"]) == ["Pretrained", "Majority class", "A", "B", "C"]
    assert [text.endswith(" †") for text in table["sst2 acc %"]] == [False, False, True, True, False]
    assert list(table.loc[1, ["learning rate", "sst2 acc %", "n"]]) == ["–", "30.0", "–"]
    text = markdown(tmp_path, *cells)
    assert "†: trained, but" in text
    assert numbers(study(*cells))["above_majority"].tolist() == [False, False, False, True]


def test_the_best_may_still_be_no_better_than_the_majority_class(tmp_path):
    values = {"A": (0.4, 0.401, 0.399), "B": (0.3, 0.3, 0.301)}
    cells = [cell(name, *([score(v, majority=0.5)] for v in of)) for name, of in values.items()]
    text = summary(study(*cells))["sst2 acc %"][1]
    assert text.startswith("**40.0 [")
    assert text.endswith("]** †")
    write_tables(study(*cells), tmp_path)
    assert r"\textbf{40.0 [" in (latex := (tmp_path / "results.tex").read_text())
    assert r"]} \textdagger{} &" in latex


def test_a_number_without_an_interval_is_held_against_the_majority_class_itself():
    def of(value):
        return [score(value, metric="mcc", stderr=None, majority=0.0)]

    table = summary(study(cell("A", of(0.0)), cell("B", of(0.2)), cell("C", of(None))))
    assert list(table["sst2 mcc %"]) == ["0.0", "0.0 †", "20.0", "nan †"]


def test_majority_class_and_dagger_are_named_only_where_they_are(tmp_path):
    text = markdown(tmp_path, cell("A", [score(0.9, majority=0.5)]))
    assert "| Majority class |" in text
    assert "†" not in text
    text = markdown(tmp_path, cell("A", [score(0.0)]))
    assert "†" not in text
    assert "ajority" not in text


def test_the_head_has_a_column_where_there_is_one(tmp_path):
    with_head = cell("A", [score(0.5)], num_head=1538)
    table = summary(study(cell("Pretrained", [score(0.5)], num_head=1538), with_head))
    assert list(table.columns)[-4:] == ["trainable", "head", "init s", "train s"]
    assert (table["trainable"][1], table["head"][1]) == ("100", "1,538")
    assert numbers(study(with_head))["head_parameters"][0] == 1538
    assert "Head: parameters" in markdown(tmp_path, with_head)
    without = cell("A", [score(0.5)])
    assert "head" not in summary(study(without))
    assert "Head:" not in markdown(tmp_path, without)


def test_three_tasks_of_one_unit_have_an_average_of_their_first_metrics(tmp_path):
    def run(shift):
        return [
            score(x + shift, task, m) for task, x in zip("abc", (0.2, 0.4, 0.6), strict=True) for m in ("acc", "f1")
        ]

    cells = [cell("A", run(0.0), run(0.1), run(0.2)), cell("B", run(0.05))]
    table = summary(study(*cells))
    # mean 0.5, standard deviation 0.1, n 3: half width 4.3027 / sqrt(3) / 10 = 0.2484; items add nothing to a digit
    # one seed: 1.96 * 0.001 / sqrt(3) over items = 0.0011
    assert list(table["average %"]) == ["50.0 [25.2, 74.8]", "45.0 [44.9, 45.1]"]
    assert "Average: mean of the first metric of each task. IQM:" in markdown(tmp_path, *cells)
    two = [one for one in run(0.0) if one["task"] != "c"]
    assert "average %" not in summary(study(cell("A", two)))


def test_an_average_leaves_other_units_out_and_names_its_tasks(tmp_path):
    shares = [score(0.3, name) for name in ("a", "b", "c")]
    wiki = score(9.0, "wiki", "word_perplexity", higher_is_better=False)
    table = summary(study(cell("A", [wiki, *shares]), cell("B", [wiki, *shares[:2]])))
    assert list(table["average %"]) == ["30.0 [29.9, 30.1]", "–"]
    assert "first metric of a, b, c. " in markdown(tmp_path, cell("A", [wiki, *shares]))
    errors = score(0.3, "speech", "wer", higher_is_better=False)
    assert "average %" not in summary(study(cell("A", [wiki, errors, *shares[:2]])))


def test_an_average_with_a_correlation_can_be_below_zero():
    runs = [[score(x, "cola", "mcc"), score(0.0, "a"), score(0.0, "b")] for x in (-0.9, 0.9)]
    assert summary(study(cell("A", *runs)))["average %"][0] == "0.0 [-33.3, 100.0]"


def test_a_wide_table_shows_the_first_metric_of_each_task_and_the_csv_all(tmp_path):
    tasks = [f"task{number}" for number in range(5)]
    scores = [score(0.5, task, metric, majority=0.4) for task in tasks for metric in ("acc", "acc_norm")]
    table = summary(study(cell("A", scores)))
    assert [name for name in table if name.startswith("task")] == [f"{task} acc %" for task in tasks]
    text = markdown(tmp_path, cell("A", scores))
    assert "The first metric of each task; all 10 metrics are in results.csv." in text
    assert "acc_norm" not in text
    rows = pd.read_csv(tmp_path / "results.csv")
    assert list(rows["dataset"]) == [task for task in tasks for _ in range(2)] + ["average"] * 2
    assert list(rows["metric"][-2:]) == ["mean", "iqm"]
    eight = summary(study(cell("A", scores[:8])))
    assert sum(name.startswith("task") for name in eight) == 8


def test_the_loss_of_targets_is_a_column_beside_the_metric_and_bold_where_it_is_lowest(tmp_path):
    def run(shift, tasks="t"):
        pairs = ((score(0.5 + shift, task), score(0.2 + shift, task, "loss", higher_is_better=False)) for task in tasks)
        return [one for pair in pairs for one in pair]

    cells = [cell(name, *(run(shift + noise) for noise in (0, 1e-4, 2e-4))) for name, shift in (("A", 0.1), ("B", 0.0))]
    table = summary(study(*cells))
    assert list(table.columns)[2:4] == ["t acc %", "t loss"]
    assert [text.startswith("**") for text in table["t acc %"]] == [True, False]
    assert [text.startswith("**") for text in table["t loss"]] == [False, True]
    assert "(of loss the lowest, else the highest)" in markdown(tmp_path, *cells)
    wide = summary(study(cell("A", run(0.0, "tabcd"))))
    assert [name for name in wide if name.endswith(("loss", "acc %"))] == [f"{task} acc %" for task in "tabcd"]
    assert wide["average %"][0] == "50.0 [49.9, 50.1]"


def test_forgetting_is_a_column_where_it_is_known(tmp_path):
    def forgetful(label, *afters):
        found = cell(label, *([score(0.5)] for _ in afters))
        for run, after in zip(found.runs, afters, strict=True):
            run.retention = {"text": "t", "num_tokens": 9, "loss_before": 1.0, "loss_after": after}
        return found

    cells = [cell("Pretrained", [score(0.5)]), forgetful("A", 1.1, 1.3), forgetful("B", 0.75)]
    # two seeds: 0.2 and Student's 12.706 times 0.1414 / 1.4142
    assert list(summary(study(*cells))["forgetting"]) == ["–", "0.200 [-1.071, 1.471]", "-0.250"]
    rows = numbers(study(*cells)).set_index("label")
    assert rows.loc["A", ["forgetting", "forgetting_low", "forgetting_high"]].tolist() == pytest.approx(
        [0.2, -1.07062, 1.47062]
    )
    assert "Forgetting: by how much training raised the loss" in markdown(tmp_path, *cells)
    without = cell("A", [score(0.5)])
    assert "forgetting" not in summary(study(without))
    assert "forgetting" not in numbers(study(without))
    assert "Forgetting" not in markdown(tmp_path, without)


def test_headings_tell_metrics_and_filters_apart():
    def headings(*metrics, tasks=("t",)):
        table = summary(study(cell("A", [score(0.5, task, metric) for task in tasks for metric in metrics])))
        return [name[2:] for name in table if name.startswith("t ")]

    assert headings("acc", "acc_norm", "f1,only") == ["acc %", "acc_norm %", "f1 %"]
    assert headings("em,strict-match", "em,flexible-extract") == ["em (strict-match) %", "em (flexible-extract) %"]
    assert headings("em", "em,last-number") == ["em %", "em (last-number) %"]
    assert headings("em,strict-match", "em,flexible-extract", tasks="tabcd") == ["em (strict-match) %"]  # one is shown


def test_each_task_and_model_has_a_table_of_its_own(tmp_path):
    cells = [
        cell("A", [score(0.5, task)], task=task, model=model, axes={"rank.r": rank})
        for task, model, rank in (("sst2", "m2", 4), ("mrpc", "m1", None), ("sst2", "m1", 4), ("sst2", "m1", 16))
    ]
    text = markdown(tmp_path, *cells)
    assert re.findall("^##.*", text, re.MULTILINE) == ["## mrpc, m1", "## sst2, m1", "## sst2, m2"]
    mrpc, sst2, _ = text.split("## ")[1:]
    assert "mrpc acc %" in mrpc
    assert "rank.r" not in mrpc  # nothing there has a rank
    assert "mrpc" not in sst2
    assert sst2.count("| A ") == 2
    assert text.count("Mean [95 % interval]") == 1
    frame = numbers(study(*cells))
    assert list(frame["task"] + " " + frame["model"]) == ["mrpc m1", "sst2 m1", "sst2 m1", "sst2 m2"]
    assert list(frame["dataset"]) == list(frame["task"])
    latex = (tmp_path / "results.tex").read_text()
    assert latex.count(r"\begin{tabular}") == 3
    assert "% sst2, m2\n" in latex


def test_contaminated_items_are_counted_by_task_and_method(tmp_path):
    scores = [score(0.5, "a"), score(0.5, "b")]
    text = markdown(
        tmp_path,
        cell("Pretrained", scores, data={"contaminated": {}}),
        cell("A", scores, scores, data={"contaminated": {"a": 12, "b": 0}}),
        cell("B", scores, data={"contaminated": {"a": 12, "b": 3}}),
    )
    assert "Contaminated, scored items that occur in the training set: a 12 (every method), b 3 (B).\n" in text


def test_truncated_dropped_and_differing_items_are_counted(tmp_path):
    text = markdown(
        tmp_path,
        cell("A", [score(0.5)], axes={"rank.r": 4}, data={"num_dropped": 7, "num_truncated": 0}),
        cell(
            "A", [score(0.5)], [score(0.5)],
            axes={"rank.r": 8},
            data={"num_dropped": 8, "num_truncated": 1234},
            scoring={"truncated": {"sst2": 5}, "merged": {"num_items": 872, "num_differing": 2}},
        ),
    )  # fmt: skip
    assert "Truncated, scored items longer than the model takes: sst2 5 (A, r 8).\n" in text
    assert "Training examples left out as too long: 7 (A, r 4), 8 (A, r 8).\n" in text
    assert "Training examples cut to the limit: 1,234 (A, r 8).\n" in text
    assert "change with the adapter merged into the weights: A, r 8 4 of 1,744.\n" in text


def test_runs_whose_loss_rose_are_counted(tmp_path):
    fell, rose, unknown = ({"loss_rose": told} for told in (False, True, None))
    text = markdown(
        tmp_path,
        cell("A", [score(0.5)], [score(0.5)], training=rose),
        cell("B", [score(0.5)], training=fell),
        cell("C", [score(0.5)], training=unknown),
    )
    assert "Runs whose training loss ended above where it began: A 2 of 2.\n" in text


def test_what_was_not_trained_has_no_say_in_how_many_training_examples_were_left_out(tmp_path):
    trained = [cell(name, [score(0.5)], data={"num_dropped": 7}) for name in "AB"]
    text = markdown(tmp_path, cell("Pretrained", [score(0.5)], data={"num_dropped": 0}), *trained)
    assert "Training examples left out as too long: 7 (every method).\n" in text


def test_the_share_that_adapters_leave_out_is_under_the_table_with_the_methods_that_do(tmp_path):
    told = "Left out by adapters, weights that are in no linear layer, in % of the parameters: "
    one, two, small, full = (cell(name, [score(0.5)]) for name in ("A", "B", "C", "Full FT"))
    for given, count in ((one, 618), (two, 622), (small, 4), (full, 0)):
        given.runs[0].model.num_parameters, given.runs[0].initialization.num_left_out = 1000, count
    assert f"{told}62 (A; B).\n" in markdown(tmp_path, one, two, full)
    assert told not in markdown(tmp_path, small, full)


def test_incomplete_data_is_named_once(tmp_path):
    data = {"incomplete": ["glue_sst2 train: 100 of 67349 rows"]}
    text = markdown(tmp_path, cell("A", [score(0.5)], data=data), cell("B", [score(0.5)], data=data))
    assert text.count("Incomplete data: glue_sst2 train: 100 of 67349 rows.") == 1


def test_a_table_says_where_rates_come_from_that_its_study_did_not_search(tmp_path):
    rows = [cell(name, [score(0.5)], [score(0.6)]) for name in ("Pretrained", "A", "B", "C", "D", "E")]
    _, given, published, by_curvature, in_file, default = (one.runs for one in rows)
    for run in given:
        run.command = "python -m bench.run method=a train.learning_rate=1e-3"
    for run in published:
        run.config.learning_rate_source = "A paper (arXiv:1): Llama 2 7B (causal)"
    for run in by_curvature:
        run.config.learning_rate_source = "auto: 12 / 3.5, the largest eigenvalue of the preconditioned Hessian"
    for run in in_file:
        run.config.model.source = "package"
    for run in default:
        run.config.model.source = "embedded"
    assert (
        "Learning rates, which this study did not search: given (A); A paper (arXiv:1): Llama 2 7B (causal) (B); "
        "auto: 12 / 3.5 (C); those of the experiment's file (D); conf/method's for the embedded models (E).\n"
    ) in markdown(tmp_path, *rows)
    assert "did not search: given (A).\n" in markdown(tmp_path, *rows[:2])


def test_a_table_says_how_many_of_the_items_were_scored(tmp_path):
    def limited(limit, every):
        found = cell("A", [score(0.5), score(0.4, "cola")], [score(0.6), score(0.4, "cola")], data={"num_items": every})
        for run in found.runs:
            run.config.score = {"limit": limit}
        return markdown(tmp_path, found)

    every = {"sst2": 1821, "cola": 872}
    assert "Scored are the first 872 of 1,821 items of sst2 (score.limit).\n" in limited(872, every)
    assert "Scored are the first 872 items of sst2, 872 items of cola (score.limit).\n" in limited(
        872, {}
    )  # of old records
    assert "score.limit" not in limited(None, every)


def test_where_there_is_nothing_to_say_the_note_stands_alone_under_the_table(tmp_path):
    clean = {"contaminated": {"sst2": 0}, "num_dropped": 0, "num_truncated": 0, "incomplete": []}
    whole = {"truncated": {"sst2": 0}, "merged": {"num_items": 872, "num_differing": 0}}
    text = markdown(tmp_path, cell("A", [score(0.5)], [score(0.6)], data=clean, scoring=whole))
    assert [part.partition(" ")[0] for part in text.split("\n\n")] == ["|", "Learning", "Mean"]


def test_without_scores_the_table_shows_the_eval_loss(tmp_path):
    cells = [cell("Pretrained", []), cell("A", [], [])]
    table = summary(study(*cells))
    assert list(table["eval loss"]) == ["–", "2.000 [0.000, 8.353]"]
    assert "Eval loss in nats." in markdown(tmp_path, *cells)
    frame = numbers(study(*cells))
    assert (frame["metric"][0], frame["mean"][0], len(frame)) == ("eval_loss", 2.0, 1)
    assert "eval loss" not in summary(study(cell("A", [score(0.5)])))


def test_counts_stay_whole_numbers_in_the_csv_beside_missing_ones(tmp_path):
    markdown(tmp_path, cell("A", [], task="corpus"), cell("A", [score(0.5)], task="sst2"))
    assert ",0.001,872," in (tmp_path / "results.csv").read_text()


def test_a_run_scored_and_one_that_is_not_do_not_mix_scores_and_losses():
    table = summary(study(cell("A", [score(0.5)]), cell("B", [])))
    assert table["sst2 acc %"][1] == "–"
    assert "eval loss" not in table


def test_latex_escapes_what_it_would_read_as_a_command(tmp_path):
    markdown(tmp_path, cell("A & B_#1", [score(0.5)]))
    assert r"A \& B\_\#1 &" in (tmp_path / "results.tex").read_text()


def in_latex(tmp_path, cells, errors="interval"):
    write_tables(study(*cells), tmp_path, errors=errors)
    return (tmp_path / "results.tex").read_text()


def test_a_table_in_latex_is_a_float_with_caption_and_label(tmp_path):
    latex = in_latex(tmp_path, [cell("A", [score(0.5)], task="sst_2"), cell("B", [score(0.4)], task="sst_2")])
    lines = latex.splitlines()
    assert lines[:2] == [r"\begin{table}[t]", r"\centering"]
    assert lines[2].startswith(r"\caption{study (sst\_2, m): mean [95 \% interval] over n seeds")
    assert lines[3] == r"\label{tab:study:sst-2-m:results}"
    assert [rule for rule in lines if rule.endswith("rule")] == [r"\toprule", r"\midrule", r"\bottomrule"]
    assert lines[-1] == r"\end{table}"
    labels = re.findall(r"\\label\{(.+)\}", "".join(path.read_text() for path in tmp_path.glob("*.tex")))
    assert len(labels) == len(set(labels)) == 2


def test_errors_are_the_standard_deviation_over_seeds_in_latex_alone_where_asked_for(tmp_path):
    cells = [cell("A", *([score(value)] for value in (0.4, 0.5, 0.6))), cell("B", [score(0.3)])]
    latex = in_latex(tmp_path / "sd", cells, "sd")
    assert r"A & 0.01 & 50.0 $\pm$ 10.0 & 3 &" in latex  # of n - 1 degrees of freedom
    assert "B & 0.01 & 30.0 & 1 &" in latex
    assert r"mean $\pm$ standard deviation over n seeds" in latex
    in_latex(tmp_path / "interval", cells)
    for name in ("results.md", "results.csv", "comparisons.tex"):
        assert (tmp_path / "sd" / name).read_bytes() == (tmp_path / "interval" / name).read_bytes()
    assert r"\pm" not in (tmp_path / "interval" / "results.tex").read_text()


def test_averages_and_forgetting_have_their_deviation_too(tmp_path):
    runs = [[score(value, task, stderr=None) for task in ("a", "b", "c")] for value in (0.4, 0.6)]
    one = cell("A", *runs)
    for run, rise in zip(one.runs, (1.0, 2.0), strict=True):
        run.retention = {"text": "t", "num_tokens": 9, "loss_before": 1.0, "loss_after": 1.0 + rise}
    latex = in_latex(tmp_path, [one, cell("B", *runs)], "sd")
    average, iqm, forgetting = latex.partition("\nA & ")[2].split(" & ")[4:7]
    assert (average, iqm, forgetting) == (r"50.0 $\pm$ 14.1", "50.0", r"1.500 $\pm$ 0.707")
