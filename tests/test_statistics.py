import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics
from statsmodels.stats.power import NormalIndPower, TTestIndPower

from bench.report.judge.improvement import improvement_estimate, probability_of_improvement
from bench.report.judge.metrics import CORRELATION, SHARE, Scale, of_items
from bench.report.judge.statistics import (
    detectable_difference,
    draw_items,
    estimate,
    interquartile_estimate,
    items_p,
    mcnemar_p,
    seeds_p,
    sign_flip_p,
    spread,
)

ANY = Scale(low=-math.inf, high=math.inf)


@pytest.mark.parametrize(
    ("values", "stderr", "over", "half_width"),
    [
        # standard deviation 0.01, n 3: t(0.975, 2) = 4.302653, half width 4.302653 / sqrt(3) / 100 = 0.024841
        ([0.51, 0.52, 0.53], None, "seeds", 0.0248414),
        ([0.52], 0.01, "items", 0.01959964),
        ([0.51, 0.52, 0.53], 0.01, "seeds and items", math.hypot(0.0248414, 0.01959964)),
        ([0.5], None, "nothing", None),
        ([math.inf, 2.0, 3.0], None, "nothing", None),
        ([math.nan, 0.2], None, "nothing", None),
    ],
)
def test_an_interval_is_students_over_seeds_normal_over_items_and_both_add_in_squares(values, stderr, over, half_width):
    found = estimate(values, stderr, SHARE)
    assert (found.over, found.n) == (over, len(values))
    if half_width is None:
        assert (found.low, found.high) == (None, None)
    else:
        assert (found.low, found.high) == pytest.approx((np.mean(values) - half_width, np.mean(values) + half_width))


def test_an_interval_stays_within_what_the_metric_can_be():
    assert estimate([0.9, 1.0], None, SHARE).high == 1.0
    assert estimate([-0.9, 0.9], None, CORRELATION).low == -1.0


def test_an_interval_is_better_than_a_value_by_more_than_rounding():
    equal = estimate([0.1 + 0.2], 0.0, SHARE)
    assert equal.low > 0.3  # by the last bit
    assert not equal.is_better_than(0.3, higher_is_better=True)
    assert equal.is_better_than(0.299, higher_is_better=True)
    assert equal.is_better_than(0.301, higher_is_better=False)
    assert not equal.is_better_than(0.299, higher_is_better=False)


def test_seeds_that_agree_do_not_make_a_score_of_few_items_certain():
    found = estimate([0.5, 0.5, 0.5], 0.07, SHARE)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.07, abs=1e-4)


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0, 0.0]])
def test_no_right_answer_among_400_is_not_known_to_be_none(values):
    found = estimate(values, 0.0, SHARE, num_items=400)
    # Wilson: z^2 / (n + z^2) = 3.8415 / 403.8415
    assert (found.low, found.high) == (0.0, pytest.approx(0.009512, abs=1e-6))


def test_drawing_items_anew_finds_the_standard_error_of_a_share():
    right = of_items("acc", np.repeat([1.0, 0.0], [30, 70]))
    draws = draw_items([right, right], "t", 1)
    assert draws.shape == (1000, 2)
    assert (draws[:, 0] == draws[:, 1]).all()  # the same items under every seed
    assert spread(draws.mean(axis=1)) == pytest.approx(math.sqrt(0.3 * 0.7 / 100), rel=0.07)
    other = draw_items([right], "u", 1)
    assert abs(np.corrcoef(draws[:, 0], other[:, 0])[0, 1]) < 0.1  # other datasets are drawn apart


def pairs_of(metric):
    generator = np.random.default_rng(0)
    if metric in ("pearson", "spearman"):
        return np.round(generator.normal(size=(60, 1)) + generator.normal(size=(60, 2)), 1)
    return generator.integers(3 if metric == "mcc" else 2, size=(60, 2)).astype(float)


@pytest.mark.parametrize(
    ("metric", "reference"),
    [
        ("f1", sklearn_metrics.f1_score),
        ("mcc", sklearn_metrics.matthews_corrcoef),
        ("pearson", lambda x, y: stats.pearsonr(x, y).statistic),
        ("spearman", lambda x, y: stats.spearmanr(x, y).statistic),
    ],
)
def test_a_metric_of_pairs_is_what_its_library_says(metric, reference):
    pairs = pairs_of(metric)
    assert of_items(metric, pairs).whole == pytest.approx(reference(*pairs.T))


def test_a_metric_without_spread_among_predictions_is_zero():
    constant = np.column_stack([[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    assert of_items("mcc", constant).whole == of_items("pearson", constant).whole == 0.0
    assert of_items("f1", np.zeros((3, 2))).whole == 0.0


def test_perplexities_are_over_all_words_not_a_mean_over_items():
    pairs = np.array([[-math.log(8), 1.0], [-math.log(2), 3.0]])  # log-likelihoods and words: 16^(1/4) = 2
    assert of_items("word_perplexity", pairs).whole == pytest.approx(2.0)
    assert of_items("bits_per_byte", pairs).whole == pytest.approx(1.0)
    assert of_items("perplexity", -np.log([2.0, 8.0])).whole == pytest.approx(4.0)
    assert of_items("some_other", pairs) is None


def scores(generator, num_seeds, num_items, sd_seeds):
    """Seeds shift the mean; half of an item's variance is its difficulty, half the seed's answer to it."""
    shifts, items = sd_seeds * generator.normal(size=(num_seeds, 1)), 0.5 * generator.normal(size=num_items)
    return shifts + items + 0.5 * generator.normal(size=(num_seeds, num_items))


@pytest.mark.parametrize(("num_seeds", "sd_seeds"), [(1, 0.0), (2, 0.05), (3, 0.01), (3, 0.2), (5, 0.05)])
def test_intervals_cover_new_seeds_and_items_at_least_95_times_in_a_hundred(num_seeds, sd_seeds):
    generator, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        found = scores(generator, num_seeds, 100, sd_seeds)
        stderr = float(found.mean(axis=0).std(ddof=1)) / 10
        interval = estimate(found.mean(axis=1).tolist(), stderr, ANY)
        covered += interval.low < 0 < interval.high
    assert covered >= 935  # 950 with two standard errors of the simulation


def test_percentiles_over_three_seeds_and_students_t_alone_cover_too_little():
    generator, percentiles, student = np.random.default_rng(0), 0, 0
    for _ in range(400):
        means = scores(generator, 3, 100, 0.05).mean(axis=1)
        draws = means[generator.integers(3, size=(300, 3))].mean(axis=1)
        low, high = np.quantile(draws, [0.025, 0.975])
        percentiles += low < 0 < high
        interval = estimate(means.tolist(), None, ANY)
        student += interval.low < 0 < interval.high
    assert 0.45 < percentiles / 400 < 0.7
    assert 0.8 < student / 400 < 0.93


def test_the_interquartile_mean_leaves_the_lowest_and_highest_quarter_out():
    # 1, 2, 3, 4, 5, 6, 7, 80 -> 3, 4, 5, 6
    assert interquartile_estimate([np.array([1.0, 3, 4, 7]), np.array([80.0, 2, 5, 6])], None, ANY).mean == 4.5


def test_the_interval_of_the_interquartile_mean_draws_runs_within_each_task():
    tasks = [np.array([0.1, 0.1]), np.array([0.5, 0.5]), np.array([0.9, 0.9])]
    found = interquartile_estimate(tasks, None, SHARE)
    assert found.mean == found.low == found.high == 0.5  # a draw over tasks would have moved it
    spread_out = interquartile_estimate([np.array([0.4, 0.6])] * 3, None, SHARE)
    assert 0.4 <= spread_out.low < 0.5 < spread_out.high <= 0.6
    assert interquartile_estimate([task[:1] for task in tasks], None, SHARE).low is None


def test_the_probability_of_improvement_counts_pairs_of_runs_ties_half():
    a, b = np.array([0.5, 0.7]), np.array([0.5, 0.6])
    # of four pairs (5,5) is a tie, (7,5) and (7,6) are won
    assert probability_of_improvement([a], [b], True).mean == 2.5 / 4
    assert probability_of_improvement([a], [b], False).mean == 1.5 / 4
    assert probability_of_improvement([a], [b], True).mean == stats.mannwhitneyu(a, b).statistic / 4
    assert probability_of_improvement([a, a], [b, a], True).mean == (2.5 / 4 + 0.5) / 2
    found = improvement_estimate([a], [b], True)
    assert (found.mean, found.low, found.high) == (0.625, 0.0, 1.0)
    assert improvement_estimate([a + 1], [b], True).low == 1.0


def test_flipping_the_signs_of_three_seeds_cannot_go_below_a_quarter():
    # of the 8 flips of (1, 2, 3), one sum is as high as 6; of (1, 2, -3), five are at least 0 and five at most 0
    assert list(sign_flip_p(np.array([[0.1, 0.2, 0.3], [0.1, 0.2, -0.3], [0.0, 0.0, 0.0]]))) == [0.25, 1.0, 1.0]
    assert sign_flip_p(np.arange(1.0, 7.0)) == 2 / 2**6


def test_students_paired_t_over_seeds():
    # mean 2, standard error 1 / sqrt(3): t = 3.4641 with 2 degrees of freedom
    assert seeds_p(np.array([1.0, 2.0, 3.0])) == pytest.approx(2 * stats.t.sf(2 * math.sqrt(3), 2))
    assert list(seeds_p(np.array([[0.0, 0.0], [0.1, 0.1]]))) == [1.0, 0.0]


def test_mcnemar_looks_only_at_what_one_of_two_runs_has_right():
    # right: both 3, first alone 5, second alone 1, none 2: 2 * (C(6,0) + C(6,1)) / 2^6
    first, second = np.repeat([1.0, 1, 0, 0], [3, 5, 1, 2]), np.repeat([1.0, 0, 1, 0], [3, 5, 1, 2])
    assert mcnemar_p(first, second) == pytest.approx(2 * 7 / 64)
    assert mcnemar_p(first, first) == 1.0


def test_the_test_over_items_is_normal_and_never_below_what_so_few_items_can_say():
    assert items_p(0.0196, 0.01, 1000) == pytest.approx(0.05, abs=1e-3)
    assert items_p(0.5, 0.0, 6) == 2 / 2**6
    assert items_p(0.0, 0.0, 6) == 1.0


def test_the_test_over_items_agrees_with_the_permutation_of_pairs():
    generator = np.random.default_rng(1)
    apart = generator.normal(0.1, 1.0, size=200)
    permuted = stats.permutation_test(
        (apart,), np.mean, permutation_type="samples", n_resamples=9999, rng=np.random.default_rng(0)
    ).pvalue
    assert items_p(apart.mean(), apart.std(ddof=1) / math.sqrt(200), 200) == pytest.approx(permuted, abs=0.02)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_the_detectable_difference_is_found_with_power_80_percent(n):
    found = detectable_difference(0.02, 0.0, n)
    assert TTestIndPower().power(found / 0.02, n, 0.05) == pytest.approx(0.8)


def test_with_one_seed_only_the_items_set_what_is_detectable():
    # (1.959964 + 0.841621) * 0.01
    assert detectable_difference(0.0, 0.01, 1) == pytest.approx(0.02801585, abs=1e-6)
    assert NormalIndPower().power(1.0, 1, 0.05) < 0.8


def test_items_add_to_what_seeds_leave_undetected():
    alone, both = detectable_difference(0.02, 0.0, 3), detectable_difference(0.02, 0.02, 3)
    # variance of the difference 2 * 0.02^2 / 3, and with items 0.02^2 more: 2.5 times
    assert both == pytest.approx(alone * math.sqrt(2.5))
