import math
from dataclasses import replace

import pytest
from records import a_config, make_record

from bench.report.judge.choice import chosen_by
from bench.report.judge.scores import collect
from bench.report.read.load import Cell
from bench.study.search import MISSED
from bench.study.selection import Point, Selection, select


def a_record(rate, seed, value=None, status="completed", higher=True, scores=None, loss=1.0):
    record = make_record(f"r{rate}-{seed}", status, "LoRA", a_config("hu", seed, rate))
    one = {"task": "t", "metric": "acc", "value": value, "higher_is_better": higher}
    record.scores = scores if scores is not None else ([] if value is None else [one])
    record.training = {"eval_loss": loss}
    return record


def selection(*points, higher=True):
    return Selection(("method=hu",), "hu", "LoRA", tuple(Point(*point) for point in points), "acc", higher)


def test_the_best_rate_has_the_best_mean():
    assert selection((1e-3, (0.2, 0.4)), (1e-2, (0.5, 0.3))).best.learning_rate == 1e-2
    assert selection((1e-3, (0.2,)), (1e-2, (0.5,)), higher=False).best.learning_rate == 1e-3


def test_of_equal_rates_the_smaller_is_the_best_also_where_means_differ_by_rounding():
    assert selection((1e-3, (0.1, 0.2, 0.3)), (1e-2, (0.3, 0.2, 0.1))).best.learning_rate == 1e-3
    assert selection((1e-3, (0.3,)), (1e-2, (0.1 + 0.2,))).best.learning_rate == 1e-3


def test_a_rate_that_one_seed_did_not_survive_is_out():
    found = selection((1e-3, (0.2,)), (1e-2, (0.9,), 1), (1e-1, (math.nan,)))
    assert found.best.learning_rate == 1e-3
    assert selection((1e-2, (), 2)).best is None
    assert selection((1e-2, (), 2)).at_edge is None


def test_the_edges_of_a_grid_are_told():
    assert selection((1e-3, (0.9,)), (1e-2, (0.5,))).at_edge == "lower"
    assert selection((1e-3, (0.1,)), (1e-2, (0.5,))).at_edge == "upper"
    assert selection((1e-3, (0.1,)), (1e-2, (0.5,)), (1e-1, (0.2,))).at_edge is None


def test_records_become_a_curve_whatever_their_order():
    records = [a_record(1e-2, 101, 0.4), a_record(1e-3, 100, 0.1), a_record(1e-2, 100, 0.2), a_record(1e-3, 101, 0.3)]
    found = select(("method=hu",), records)
    assert found == select(("method=hu",), records[::-1])
    assert [(point.learning_rate, point.values) for point in found.points] == [(1e-3, (0.1, 0.3)), (1e-2, (0.2, 0.4))]
    assert (found.method, found.label, found.metric, found.higher_is_better) == ("hu", "LoRA", "acc", True)


def test_a_failed_run_counts_against_its_rate():
    found = select((), [a_record(1e-2, 100, 0.4), a_record(1e-2, 101, status="failed")])
    assert (found.points[0].values, found.points[0].failed) == ((0.4,), 1)


def test_several_datasets_are_judged_by_the_mean_of_their_first_metrics():
    scores = [
        {"task": task, "metric": metric, "value": value, "higher_is_better": True}
        for task, metric, value in (("a", "acc", 0.2), ("a", "f1", 1.0), ("b", "mcc", 0.6))
    ]
    found = select((), [a_record(1e-2, 100, scores=scores)])
    assert found.points[0].values == (pytest.approx(0.4),)
    assert found.metric == "mean of 2 first metrics"


def test_what_scores_nothing_is_judged_by_its_eval_loss():
    found = select((), [a_record(1e-2, 100, loss=0.5), a_record(1e-1, 100, loss=0.7)])
    assert (found.metric, found.higher_is_better, found.best.learning_rate) == ("eval_loss", False, 1e-2)


def test_metrics_of_both_directions_cannot_choose():
    scores = [
        {"task": "a", "metric": "acc", "value": 0.2, "higher_is_better": True},
        {"task": "b", "metric": "perplexity", "value": 3.0, "higher_is_better": False},
    ]
    with pytest.raises(ValueError, match="metrics of both directions: a acc, b perplexity"):
        select((), [a_record(1e-2, 100, scores=scores)])


def test_the_loss_of_the_scored_splits_targets_is_what_the_rate_is_chosen_by():
    losses = [
        {"task": task, "metric": metric, "value": value, "higher_is_better": metric != "loss"}
        for task, metric, value in (("t", "acc", 0.9), ("t", "loss", 0.5), ("u", "acc", 0.8), ("u", "loss", 2.0))
    ]
    found = select((), [a_record(1e-3, 100, scores=losses)])
    assert (found.metric, found.higher_is_better) == ("loss", False)
    assert found.points[0].values == (pytest.approx(1.0),)  # the geometric mean: neither task outweighs the other


def test_the_tuned_rate_is_the_vertex_where_the_neighbours_are_known_and_else_the_best_rate():
    points = [Point(rate, (math.exp((math.log10(rate) + 2.05) ** 2),)) for rate in (5.6e-3, 1e-2, 1.8e-2)]
    found = Selection((), "hu", "LoRA", tuple(points), "loss", False)
    assert found.best.learning_rate == 1e-2
    assert found.vertex == pytest.approx(10**-2.05, rel=0.02)
    far = replace(found, points=tuple(Point(rate, (1.0 + (rate != 1e-2),)) for rate in (1e-3, 1e-2, 1e-1)))
    assert far.vertex == 1e-2
    failed = replace(found, points=(*points[:2], Point(1.8e-2, (), 1)))
    assert failed.vertex == 1e-2


def test_the_plateau_holds_the_rates_within_one_standard_error():
    points = [Point(5.6e-3, (1.30, 1.34)), Point(1e-2, (1.00, 1.04)), Point(1.8e-2, (1.02, 1.05))]
    found = Selection((), "hu", "LoRA", tuple(points), "loss", False)
    assert found.plateau == (1e-2, 1.8e-2)
    assert replace(found, points=(Point(1e-2, (1.0,)),)).plateau is None


def test_fits_and_steps_of_smaller_budgets_are_counted():
    full = [a_record(1e-2, seed, 0.5) for seed in (100, 101)]
    small = [a_record(rate, 100, 0.5, status) for rate, status in ((1e-2, "completed"), (1e-1, "failed"))]
    for record in small:
        record.config.train.max_steps = 20
    found = select((), full, small)
    assert (found.num_fits, found.num_steps) == (4, 40)
    assert [rung.steps for rung in found.rungs] == [20]


def tried(noise, columns=("acc", "loss")):
    """Runs of a selection at three rates under three seeds, whose accuracy rises with the rate."""
    found = []
    for number, rate in enumerate((5.6e-3, 1e-2, 1.8e-2)):
        for seed in (100, 101, 102):
            moved = noise * (seed - 101)
            values = {"acc": 0.5 + 0.1 * number, "loss": math.exp(0.5 * (number - 1) ** 2 + moved)}
            scores = [
                {"task": "t", "metric": name, "value": values[name], "higher_is_better": name == "acc"}
                for name in columns
            ]
            found.append(a_record(rate, seed, scores=scores))
    return found


def test_a_tuned_score_is_as_uncertain_as_the_choice_of_its_rate_makes_it():
    calm, noisy = (chosen_by(tried(noise), "t", "acc") for noise in (0.01, 0.1))
    assert (calm.degrees, noisy.degrees) == (6, 6)
    # 0.1 a place; the vertex moves by the difference of the neighbours over four times the bend of 0.5.
    spread, missed = 0.1 * 0.01 * math.sqrt(2 / 3) / (4 * 0.5), 0.1 * MISSED / math.sqrt(3)
    assert math.sqrt(calm.variance) == pytest.approx(math.hypot(spread, missed), rel=0.1)
    assert noisy.variance - missed**2 > 50 * spread**2
    assert chosen_by(tried(0.1, ("loss",)), "t", "acc") is None  # the score was not taken there
    assert chosen_by([record for record in tried(0.1) if record.config.seed == 100], "t", "acc") is None
    assert chosen_by([], "t", "acc") is None


def test_a_tuned_row_has_the_runs_of_its_selection_and_its_interval_their_uncertainty():
    runs = [a_record(1e-2, seed, 0.6 + 0.01 * seed) for seed in (0, 1, 2)]
    alone = Cell("hu", "LoRA", {}, runs, [])
    plain, wide = (collect([cell]).found[0] for cell in (alone, replace(alone, tried=tuple(tried(0.3)))))
    (column,) = plain
    assert wide[column].sample.choice_variance > 0 == plain[column].sample.choice_variance
    widths = [one[column].estimate.high - one[column].estimate.low for one in (plain, wide)]
    assert widths[1] > widths[0]
