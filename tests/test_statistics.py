import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from bench.report.judge.differences import difference
from bench.report.judge.improvement import newcombe, probability_of_improvement
from bench.report.judge.items import item_errors, standard_error
from bench.report.judge.metrics import CORRELATION, SHARE, Scale, of_items
from bench.report.judge.power import detectable_difference, power, seeds_needed
from bench.report.judge.scores import Sample, sample_estimate
from bench.report.judge.significance import dunnett_p, items_p, mcnemar_p, seeds_p
from bench.report.judge.statistics import Part, estimate, interquartile_estimate, interval, over_seeds, summed, wilson

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


def test_the_standard_error_over_items_of_a_mean_is_exact():
    values = np.repeat([1.0, 0.0], [30, 70])
    errors = item_errors([of_items("acc", values)] * 2, "t", 1)
    assert errors.shape == (100, 2)
    assert standard_error(errors.mean(axis=1)) == pytest.approx(values.std(ddof=1) / 10, rel=1e-6)
    assert standard_error(errors[:, 0] - errors[:, 1]) == 0.0  # the same items under every seed


def test_the_standard_error_of_a_loss_is_that_of_a_ratio_of_its_tokens():
    losses, tokens = np.array([2.0, 9.0, 4.0, 1.0]), np.array([1.0, 4.0, 3.0, 1.0])
    pairs = of_items("loss", np.column_stack([losses, tokens]))
    residuals = losses - 16 / 9 * tokens
    assert pairs.whole == pytest.approx(16 / 9)
    assert standard_error(item_errors([pairs], "t", 1)[:, 0]) == pytest.approx(
        math.sqrt((residuals**2).sum() * 4 / 3) / 9, rel=1e-5
    )


@pytest.mark.parametrize("metric", ["acc", "mcc"])
def test_items_that_ask_for_one_fact_are_not_independent(metric):
    # Every fact is asked twice and answered alike: half as many items as it seems, sqrt(2) times the error.
    generator = np.random.default_rng(0)
    once = generator.integers(2, size=(150, 2)).astype(float)
    once = once[:, 0] if metric == "acc" else once
    twice, facts = np.concatenate([once, once]), [f"f{number}" for number in range(150)] * 2
    apart, together = (item_errors([of_items(metric, twice)], "t", 1, of)[:, 0] for of in (None, facts))
    of_facts = standard_error(item_errors([of_items(metric, once)], "t", 1)[:, 0])
    assert standard_error(together) == pytest.approx(of_facts, rel=1e-6 if metric == "acc" else 0.06)
    assert standard_error(together) / standard_error(apart) == pytest.approx(math.sqrt(2), rel=0.06)


def test_resampled_items_have_the_spread_that_the_metric_has():
    correct = of_items("mcc", pairs_of("mcc"))
    plain = of_items("acc", np.ones(60))
    errors = item_errors([correct, plain], "t", 1)
    resampled = np.random.default_rng(1).multinomial(60, np.full(60, 1 / 60), size=4000) @ correct.items
    assert standard_error(errors[:, 0]) == pytest.approx(correct.value(resampled.astype(float)).std(), rel=0.1)
    assert standard_error(errors[:, 1]) == 0.0


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


def test_the_interval_of_the_interquartile_mean_is_yuens_from_five_runs_on():
    runs = np.array([3.0, 1, 4, 1.5, 9])
    found = interquartile_estimate([runs], None, ANY)
    # 1 and 9 are left out; Winsorised 3, 1.5, 4, 1.5, 4; h = 3: s_w sqrt(n) / h, here with n - 1 degrees of freedom
    half = stats.t.ppf(0.975, 4) * np.array([3, 1.5, 4, 1.5, 4]).std(ddof=1) * math.sqrt(5) / 3
    assert (found.mean, found.high - found.mean) == (pytest.approx(8.5 / 3), pytest.approx(half))
    assert interquartile_estimate([runs[:4]], None, ANY).low is None


@pytest.mark.parametrize(("n", "together"), [(5, 0.0), (5, 0.5), (10, 0.5)])
def test_the_interval_of_the_interquartile_mean_covers(n, together):
    generator = np.random.default_rng(0)

    def drawn(size):
        common = generator.normal(size=size) * math.sqrt(together)
        return np.arange(3.0)[:, None] + common + math.sqrt(1 - together) * generator.normal(size=(3, size))

    truth = interquartile_estimate(drawn(50_000), None, ANY).mean
    found = [interquartile_estimate(drawn(n), None, ANY) for _ in range(500)]
    assert np.mean([one.low < truth < one.high for one in found]) > 0.90


def test_the_probability_of_improvement_counts_pairs_of_runs_ties_half():
    a, b = np.array([0.5, 0.7]), np.array([0.5, 0.6])
    # of four pairs (5,5) is a tie, (7,5) and (7,6) are won
    assert probability_of_improvement([a], [b], True).mean == 2.5 / 4
    assert probability_of_improvement([a], [b], False).mean == 1.5 / 4
    assert probability_of_improvement([a], [b], True).mean == stats.mannwhitneyu(a, b).statistic / 4
    assert probability_of_improvement([a, a], [b, a], True).mean == (2.5 / 4 + 0.5) / 2
    assert probability_of_improvement([a[:1]], [b], True).low is None


@pytest.mark.parametrize(("n", "low"), [(3, 0.50), (5, 0.64), (10, 0.80)])
def test_runs_of_which_all_are_better_do_not_make_it_certain(n, low):
    found = probability_of_improvement([np.arange(n) + 100.0], [np.arange(n) * 1.0], True)
    assert (round(found.low, 2), found.mean, found.high) == (low, 1.0, 1.0)
    turned = probability_of_improvement([np.arange(n) * 1.0], [np.arange(n) + 100.0], True)
    assert (turned.low, turned.high) == (0.0, pytest.approx(1 - found.low))


def test_newcombes_limits_lie_196_standard_errors_away():
    for end in newcombe(0.7, 4, 6):
        variance = end * (1 - end) * (1 + 4 * ((1 - end) / (2 - end) + end / (1 + end))) / 24
        assert abs(end - 0.7) == pytest.approx(1.959964 * math.sqrt(variance))


@pytest.mark.parametrize(("n", "truth"), [(3, 0.5), (3, 0.76), (5, 0.76), (5, 0.92)])
def test_the_interval_of_the_probability_of_improvement_covers(n, truth):
    generator, covered = np.random.default_rng(0), 0
    shift = math.sqrt(2) * stats.norm.ppf(truth)
    for _ in range(500):
        found = probability_of_improvement([generator.normal(shift, size=n)], [generator.normal(size=n)], True)
        covered += found.low <= truth <= found.high
    assert covered / 500 > 0.88  # two standard errors of the simulation below .905


def test_over_seeds_two_methods_are_compared_by_welch():
    one, other = np.array([1.0, 2.0, 4.0]), np.array([0.0, 0.1, 0.3, 0.2, 0.1])
    parts = (*over_seeds(one), *over_seeds(other))
    welch = stats.ttest_ind(one, other, equal_var=False)
    assert seeds_p(one.mean() - other.mean(), parts) == pytest.approx(welch.pvalue)
    assert summed(parts).degrees == pytest.approx(welch.df)
    found = interval(one.mean() - other.mean(), parts, None, ANY, 3)
    assert (found.low, found.high) == pytest.approx(tuple(welch.confidence_interval()))
    assert (seeds_p(0.0, ()), seeds_p(0.1, ())) == (1.0, 0.0)


def sample(values, seeds=None, **about):
    return Sample(tuple(seeds or range(len(values))), np.array(values), None, (), None, **about)


def test_runs_are_paired_by_seed_only_where_the_study_says_so():
    one, other = sample([1.0, 2.0, 4.0]), sample([0.5, 1.5, 3.0, 9.0], seeds=(0, 1, 2, 7))
    paired = difference(one, other, "seeds")
    assert paired.p_seeds == pytest.approx(stats.ttest_rel([1.0, 2.0, 4.0], [0.5, 1.5, 3.0]).pvalue)
    assert (paired.n, paired.mean) == (3, pytest.approx(2 / 3))
    welch = difference(one, other, "items")
    assert welch.p_seeds == pytest.approx(stats.ttest_ind(one.values, other.values, equal_var=False).pvalue)
    assert difference(one, sample([1.0], seeds=(9,)), "seeds") is None


def test_what_trains_nothing_is_the_same_under_every_seed_and_a_single_run_is_not():
    runs, constant = sample([0.5, 0.6, 0.7]), sample([0.1], fixed=True)
    assert difference(runs, constant, "items").p_seeds == pytest.approx(stats.ttest_1samp(runs.values, 0.1).pvalue)
    assert difference(runs, sample([0.1]), "items").p_seeds is None


def test_the_choice_of_a_learning_rate_adds_to_what_seeds_leave_open():
    one, other = sample([0.5, 0.6, 0.7], choice_variance=0.01, choice_degrees=2), sample([0.1, 0.2, 0.2])
    plain = difference(sample([0.5, 0.6, 0.7]), other, "items")
    found = difference(one, other, "items")
    assert summed(found.parts).variance == pytest.approx(summed(plain.parts).variance + 0.01)
    assert found.p_seeds > plain.p_seeds
    # 0.1^2 / 3 with 2 degrees of freedom and 0.01 with 2
    total = 0.01 / 3 + 0.01
    half = stats.t.ppf(0.975, total**2 / (((0.01 / 3) ** 2 + 0.01**2) / 2)) * math.sqrt(total)
    assert sample_estimate(one, ANY).high == pytest.approx(0.6 + half)
    assert detectable_difference(found.parts, 0.0, 0.05) > detectable_difference(plain.parts, 0.0, 0.05)


@pytest.mark.parametrize(("n", "sd_choice", "degrees"), [(3, 1.0, 2), (5, 2.0, 4), (10, 1.0, 2)])
def test_two_arms_of_one_method_whose_rates_were_chosen_differ_in_at_most_5_percent(n, sd_choice, degrees):
    # The variance of the choice is known up to a chi-squared with its degrees of freedom; one run has variance 1.
    generator = np.random.default_rng(0)
    found = blind = 0
    for _ in range(1000):
        chosen = sd_choice**2 * generator.chisquare(degrees, size=2) / degrees
        arms = [generator.normal(sd_choice * generator.normal(), 1.0, size=n) for _ in range(2)]
        one, other = (sample(a, choice_variance=c, choice_degrees=degrees) for a, c in zip(arms, chosen, strict=True))
        found += difference(one, other, "items").p_seeds < 0.05
        blind += difference(sample(arms[0]), sample(arms[1]), "items").p_seeds < 0.05
    assert found <= 64  # 50 and two standard errors of the simulation
    assert blind > 150


def test_dunnetts_comparison_with_a_control_is_one_test_of_all():
    generator = np.random.default_rng(0)
    control, first, second = (generator.normal(mean, size=5) for mean in (0.0, 0.0, 2.5))
    found = dunnett_p([first, second], control)
    assert found == pytest.approx(stats.dunnett(first, second, control=control).pvalue, abs=2e-3)
    assert found[1] < 0.05 < found[0]
    assert dunnett_p([first], control)[0] == pytest.approx(stats.ttest_ind(first, control).pvalue, abs=1e-3)
    assert dunnett_p([first[:1], second], control) == [None, None]
    assert dunnett_p([np.ones(3)], np.zeros(3)) == [None]


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


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 6])
@pytest.mark.parametrize("stderr", [0.0, 0.5])
def test_the_detectable_difference_is_found_with_power_80_percent_by_the_rule_of_the_tables(n, alpha, stderr):
    size = detectable_difference([Part(1 / n, n - 1)] * 2, stderr, alpha)
    generator, found, trials = np.random.default_rng(0), 0, 1500
    for _ in range(trials):
        one, other, items = generator.normal(size, size=n), generator.normal(size=n), stderr * generator.normal()
        parts, mean = (*over_seeds(one), *over_seeds(other)), one.mean() - other.mean() + items
        p = max(seeds_p(mean, parts), items_p(mean, stderr, None) if stderr else 0.0)
        found += p < alpha and interval(mean, parts, stderr or None, ANY, n).low > 0
    assert 0.77 < found / trials < 0.83


def test_over_seeds_of_a_large_study_it_is_the_normal_one():
    # (1.959964 + 0.841621) * sqrt(2 / 400)
    assert detectable_difference([Part(1 / 400, 399)] * 2, 0.0, 0.05) == pytest.approx(0.1981, rel=0.01)


def test_with_one_seed_only_the_items_set_what_is_detectable():
    # (1.959964 + 0.841621) * 0.01
    assert detectable_difference([], 0.01, 0.05) == pytest.approx(0.02801585, abs=1e-6)
    assert detectable_difference([], 0.0, 0.05) == 0.0


def test_the_seeds_that_a_difference_takes_are_the_fewest_that_find_it():
    needed = seeds_needed(-1.0, (1.0, 1.0), (), 0.1, 0.05)
    for n, enough in ((needed - 1, False), (needed, True)):
        assert (power(1.0, [Part(1 / n, n - 1)] * 2, 0.1, 0.05) >= 0.8) is enough
    assert 17 <= needed <= 20  # two-sample t with equal variances: 17
    assert seeds_needed(1.0, (1.0, 1.0), (), 0.5, 0.05) is None  # 2.8 standard errors over items are more than 1
    assert seeds_needed(1.0, (1.0, 1.0), (Part(1.0, 2.0),), 0.0, 0.05) is None


def test_wilsons_interval_of_one_collapse_among_three():
    assert wilson(1, 3) == pytest.approx((0.0615, 0.7923), abs=1e-4)
