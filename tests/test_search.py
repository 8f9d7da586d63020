"""The search for a learning rate, and what its choice adds to the uncertainty of a comparison."""

import math

import numpy as np
import pytest
from simulated_studies import called_different

from bench.study.search import (
    MISSED,
    beyond,
    choice_variance,
    finalists,
    next_places,
    place_of,
    plateau,
    rate_at,
    rate_of_vertex,
    survivors,
    vertex,
)


def searched(loss, centre, points):
    """Every place that the first budget tries, and how many rounds that took."""
    tried, rounds = {}, 0
    while places := next_places(tried, centre, points):
        tried |= {place: loss(place) for place in places}
        rounds += 1
    return tried, rounds


def test_rates_lie_four_a_decade_and_have_two_digits():
    assert [rate_at(place) for place in range(-9, -3)] == [5.6e-3, 1e-2, 1.8e-2, 3.2e-2, 5.6e-2, 1e-1]
    assert [place_of(rate_at(place)) for place in range(-30, 8)] == list(range(-30, 8))
    assert rate_at(place_of(3e-3)) == 3.2e-3  # a rate off the lattice is moved to the nearest place
    assert rate_of_vertex(-8.0) == 1e-2
    assert rate_of_vertex(-7.6) == 0.013


@pytest.mark.parametrize("optimum", [-0.4, 3.3, -7.1, 9.6])
@pytest.mark.parametrize("points", [5, 7, 9])
def test_every_search_takes_as_many_fits_and_closes_in_on_the_optimum(optimum, points):
    tried, _ = searched(lambda place: (place - optimum) ** 2, 0, points)
    assert len(tried) == points
    if abs(optimum) < 4 or points == 9:
        best = min(tried, key=tried.get)
        assert abs(best - optimum) <= 0.5 + 1e-9 or points == 5
        assert min(tried) < best < max(tried)


def test_the_first_rates_lie_half_a_decade_apart_then_an_edge_is_left_before_the_curve_is_refined():
    assert next_places({}, 4, 7) == [2, 4, 6]
    assert next_places({4: 1.0}, 4, 7) == [2, 6]  # the run that found the centre is the first
    assert next_places({2: 3.0, 4: 2.0, 6: 1.0}, 4, 7) == [8]
    assert next_places({2: 1.0, 4: 2.0, 6: 3.0}, 4, 7) == [0]
    assert next_places({2: 2.0, 4: 1.0, 6: 3.0}, 4, 7) == [3, 5]
    assert next_places({2: 3.0, 4: 1.0, 6: 2.0}, 4, 4) == [5]  # one fit is left: on the better side
    assert next_places({2: 2.0, 3: 1.5, 4: 1.0, 5: 1.5, 6: 3.0}, 4, 7) == [1, 7]
    assert next_places({0: 1.0, 2: math.inf, 4: math.inf}, 2, 4) == [-2]  # rates that diverged count as tried


def test_the_better_half_goes_on_and_the_final_rates_are_the_best_and_its_neighbours():
    assert survivors({0: 5.0, 1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}) == [1, 2, 3]
    assert survivors({0: 1.0, 1: 1.0, 2: math.inf, 3: math.inf}) == [0, 1]
    assert finalists({0: 5.0, 2: 1.0, 4: 2.0}) == [1, 2, 3]
    assert beyond({1: 1.0, 2: 2.0, 3: 3.0}) == 0
    assert beyond({1: 3.0, 2: 2.0, 3: 1.0}) == 4
    assert beyond({1: 2.0, 2: 1.0, 3: 3.0}) is None


def test_the_vertex_of_a_parabola_is_found_exactly_and_stays_beside_the_best_place():
    assert vertex({place: 3 * (place - 2.3) ** 2 for place in range(5)}) == pytest.approx(2.3)
    assert vertex({0: 2.0, 1: 1.0, 2: 1.0}) == pytest.approx(1.5)
    assert vertex({1: 1.0, 2: 2.0, 3: 3.0}) == 1.0
    assert vertex({1: 2.0, 2: 1.0, 3: math.inf}) == 2.0


def test_a_choice_among_rates_that_do_not_differ_has_no_variance_and_one_on_a_slope_has():
    losses = {0: (1.2, 1.3, 1.1), 1: (1.0, 1.1, 0.9), 2: (1.2, 1.1, 1.3)}
    assert choice_variance(losses, dict.fromkeys(losses, (0.5, 0.5, 0.5))) == pytest.approx(0.0, abs=1e-12)
    slope = {place: (10.0 * place,) * 3 for place in losses}
    assert choice_variance(losses, slope) > choice_variance({p: np.mean(v) + 0.1 * (np.array(v) - np.mean(v))
                                                             for p, v in losses.items()}, slope) > 0  # fmt: skip
    assert math.isnan(choice_variance({place: values[:1] for place, values in losses.items()}, slope))


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize(("spread", "at_most"), [(0.03, 1.3), (0.1, 4.0)])
def test_the_variance_of_a_choice_is_that_of_choosing_again(spread, at_most, noise):
    """Against simulated studies: a parabola of losses, an endpoint that rises through its minimum, with noise or not.

    Where the noise can turn the parabola over, the estimate is too large rather than too small.
    """
    rng, places = np.random.default_rng(0), (-1, 0, 1)
    found, estimated = [], []
    for _ in range(400):
        losses = {place: rng.normal(0.3 * (place - 0.1) ** 2, spread, 3) for place in places}
        found.append(2.0 * vertex({place: float(values.mean()) for place, values in losses.items()}))
        estimated.append(choice_variance(losses, {place: rng.normal(2.0 * place, noise, 3) for place in places}))
    missed = 2.0**2 * MISSED**2 / 3  # of a uniform step either way
    assert 0.8 < np.mean(estimated) / (np.var(found) + missed) < at_most


def test_noise_of_an_endpoint_that_does_not_change_is_no_variance_of_the_choice():
    rng, places = np.random.default_rng(0), (-1, 0, 1)
    losses = {place: rng.normal(0.3 * place**2, 0.1, 3) for place in places}
    found = [choice_variance(losses, {place: rng.normal(0.0, 1.0, 3) for place in places}) for _ in range(200)]
    assert np.median(found) == 0.0
    assert np.mean(found) < 0.03  # of a variance of 1 / 3 of each mean


def test_the_plateau_widens_with_the_seeds_spread():
    means = {0: 1.3, 1: 1.0, 2: 1.05, 3: 1.6}
    calm = {place: (mean - 0.01, mean + 0.01) for place, mean in means.items()}
    noisy = {place: (mean - 0.4, mean + 0.4) for place, mean in means.items()}
    assert plateau(calm) == [1]
    assert plateau(noisy) == [0, 1, 2]


@pytest.mark.parametrize("n", [3, 5, 10])
def test_two_arms_of_one_method_are_not_called_different_for_their_chosen_rates(n):
    """At most 5 %; of 150 studies at most 14, as 39 times of 40 at 5 %. The script tries 1,000 of each kind."""
    found = called_different("hu", n, 150, np.random.default_rng(n))
    assert max(found.values()) <= 14 / 150
