"""Does one study rank methods as another does?"""

import math
from itertools import product

import numpy as np
import pytest
from records import a_config, a_score, make_record
from scipy import stats

from bench.report.papers.answers import NO, UNDECIDED, YES, NotRunError
from bench.report.papers.tiers_question import interval, ranks_alike
from bench.report.read.load import ReportError, load_study
from bench.runs.record import write_record
from bench.study.plan_file import PlannedRun, StudyPlan, write_plan
from bench.study.search import rate_at

METHODS = ("hu", "pissa", "eva", "mica", "corda", "olora", "milora", "orthogonal")
RISING = {method: 0.1 * place for place, method in enumerate(METHODS, 1)}


@pytest.fixture
def made(tmp_path):
    """A study with two seeds of each method, whose scores are the values given."""

    def of(name, values, ranks=(None,)):
        planned = []
        for method, value in values.items():
            for seed, rank in ((seed, rank) for seed in (0, 1) for rank in ranks):
                run_id = f"{method}-{rank}-{seed}"
                config = a_config(method, seed, 1e-3) | {"rank": {"name": rank or "r8"}}
                training = {"eval_loss": math.exp(-value)}
                record = make_record(run_id, "completed", method.upper(), config, config, training=training)
                record.scores = [a_score(value + 0.01 * seed - 0.005, stderr=None)]
                folder = tmp_path / name / run_id
                folder.mkdir(parents=True)
                write_record(folder, record)
                group = (f"method={method}", *([f"rank={rank}"] if rank else []))
                planned.append(PlannedRun("run", group, (f"x={run_id}",), run_id))
        write_plan(tmp_path / name, StudyPlan(name, ("run",), tuple(planned)))
        return load_study(tmp_path, name)

    return of


def reordered(*places):
    return {method: 0.1 * place for method, place in zip(METHODS, places, strict=True)}


def test_the_correlation_is_of_ranks(made):
    other = reordered(2, 1, 4, 3, 6, 5, 8, 7)
    found = ranks_alike([made("small", RISING), made("large", other)], "score")
    expected = stats.spearmanr(list(RISING.values()), list(other.values())).statistic
    assert found.estimate == pytest.approx(expected) == pytest.approx(1 - 6 * 8 / (8 * 63))
    assert (found.text, found.n, found.unit) == (YES, 8, "in rank correlation")
    assert 0 < found.low < found.estimate < found.high < 1
    assert "small: HU < PISSA < EVA" in found.details
    assert "large: PISSA < HU < MICA" in found.details


def test_the_opposite_order_is_no_and_has_no_interval(made):
    found = ranks_alike([made("small", RISING), made("large", reordered(*range(8, 0, -1)))], "score")
    assert (found.text, found.estimate, found.low, found.high) == (NO, -1.0, None, None)


def test_orders_that_have_nothing_to_do_with_each_other_are_undecided(made):
    found = ranks_alike([made("small", RISING), made("large", reordered(5, 2, 7, 4, 1, 8, 3, 6))], "score")
    assert found.text == UNDECIDED
    assert found.low < 0 < found.high


def test_losses_rank_the_other_way_round_than_scores(made):
    studies = [made("small", RISING), made("large", RISING)]
    by_loss, by_score = (ranks_alike(studies, quantity).details for quantity in ("loss", "score"))
    assert by_loss.startswith("small: ORTHOGONAL < MILORA")
    assert by_score.startswith("small: HU < PISSA")


def test_only_methods_of_both_studies_count_and_four_are_the_fewest(made):
    few = dict(list(RISING.items())[:4])
    assert ranks_alike([made("a", RISING), made("b", few)], "score").n == 4
    three = dict(list(RISING.items())[:3])
    with pytest.raises(NotRunError, match="c and d have 3 methods with a score in common; a correlation takes 4"):
        ranks_alike([made("c", RISING), made("d", three)], "score")


def test_of_several_ranks_one_is_named(made):
    studies = [made("a", RISING), made("b", RISING, ranks=("r8", "r16"))]
    with pytest.raises(ReportError, match=r"b has several groups of hu, .*; name one with `only`"):
        ranks_alike(studies, "score")
    assert ranks_alike(studies, "score", {"rank": "r8"}).n == 8


def test_best_rates_and_curvatures_are_ranked_too(tmp_path):
    def study(name, places, ranks=("r8",)):
        planned = []
        for (place, method), rank in product(zip(places, METHODS, strict=True), ranks):
            for step, value in ((-1, 0.4), (0, 0.5), (1, 0.4)):
                run_id, rate = f"{method}-{rank}-{step}", rate_at(place + step)
                config = a_config(method, 100, rate) | {"rank": {"name": rank}}
                record = make_record(run_id, "completed", method.upper(), config, config)
                record.scores = [a_score(value, stderr=None)]
                record.curvature = {"plain": 1.0, "preconditioned": 1 / rate_at(place), "num_rows": 8}
                folder = tmp_path / name / run_id
                folder.mkdir(parents=True)
                write_record(folder, record)
                group = (f"method={method}", *([f"rank={rank}"] if len(ranks) > 1 else []))
                planned.append(PlannedRun("select", group, (f"x={run_id}",), run_id))
        write_plan(tmp_path / name, StudyPlan(name, ("select",), tuple(planned)))
        return load_study(tmp_path, name)

    studies = [study("a", range(-12, -4)), study("b", range(-20, -12))]
    assert ranks_alike(studies, "rate").estimate == 1
    assert ranks_alike(studies, "curvature").estimate == 1
    assert "a: HU < PISSA" in ranks_alike(studies, "rate").details
    assert "a: ORTHOGONAL < MILORA" in ranks_alike(studies, "curvature").details
    both = [studies[0], study("c", range(-12, -4), ("r8", "r16"))]
    with pytest.raises(ReportError, match=r"^c has several groups of hu, .*; name one with `only`"):
        ranks_alike(both, "rate")
    assert ranks_alike(both, "rate", {"rank": "r16"}).n == 8


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_the_interval_covers_95_percent_of_correlations_of_normal_pairs(rho):
    rng = np.random.default_rng(0)
    true = 6 / math.pi * math.asin(rho / 2)  # of a bivariate normal
    covered = 0
    for _ in range(400):
        x = rng.standard_normal(12)
        y = rho * x + math.sqrt(1 - rho**2) * rng.standard_normal(12)
        low, high = interval(float(stats.spearmanr(x, y).statistic), 12)
        covered += low <= true <= high
    assert 0.92 <= covered / 400 <= 0.98


def test_bad_questions_are_refused(made):
    study = made("a", RISING)
    for studies, quantity in (([study], "score"), ([study, study], "size")):
        with pytest.raises(ReportError, match="takes two studies and one of score, loss, rate, curvature"):
            ranks_alike(studies, quantity)
