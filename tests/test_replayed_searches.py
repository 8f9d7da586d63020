import pytest
from records import a_config, a_score, make_record
from replayed_searches import GRID, cases

from bench.study.search import rate_at

PLACES = range(-16, -3)


def grid(best, places=PLACES):
    """Losses that rise by the square of the distance from a place, a little more under each further seed."""
    for steps in (25, 50, 100):
        for place in places:
            for seed in (100, 101, 102):
                config = a_config("hu", seed, rate_at(place))
                config["train"]["max_steps"] = steps
                record = make_record(f"{steps}{place}{seed}", config=config)
                loss = 0.1 * 1.5 ** ((place - best) ** 2) * 1.01 ** (seed - 100)
                record.scores = [a_score(loss, metric="loss", higher_is_better=False)]
                yield record


def test_a_clear_minimum_is_found_from_every_centre_in_less_than_half_of_the_grids_steps():
    found = cases(list(grid(-10)))
    assert len(found) == 15
    assert all(right for right, _ in found)
    # seven fits of a quarter, four of a half, three rates under three seeds
    assert [share for _, share in found] == pytest.approx([(7 * 25 + 4 * 50 + 9 * 100) / (GRID * 3 * 100)] * 15)


def test_a_search_that_leaves_the_rates_that_were_run_is_not_right():
    assert not all(right for right, _ in cases(list(grid(-4))))
