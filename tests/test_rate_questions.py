import numpy as np
import pytest

from bench.report.papers import rate_questions
from bench.report.papers.rate_questions import ends, vertex, vertex_draws
from bench.study.selection import Point, Selection


def selection(rates, values, higher_is_better=True, name="m"):
    points = tuple(Point(float(rate), tuple(map(float, of))) for rate, of in zip(rates, values, strict=True))
    return Selection((name,), "m", "M", points, "acc", higher_is_better)


def test_the_vertex_of_a_parabola_is_found_on_an_uneven_grid():
    rates = np.array([0.001, 0.003, 0.01, 0.05])
    losses = np.exp((np.log10(rates) + 2.2) ** 2)
    assert vertex(selection(rates, losses[:, None], higher_is_better=False)) == pytest.approx(-2.2)
    assert vertex(selection(rates, -((np.log10(rates[:, None]) + 2.2) ** 2))) == pytest.approx(-2.2)


def test_at_an_edge_it_is_the_rate_there_and_its_draws_are_unbounded():
    found = selection([0.01, 0.1, 1.0], [[0.5, 0.51], [0.6, 0.61], [0.9, 0.91]])
    assert vertex(found) == 0.0
    assert np.isposinf(vertex_draws(found)).all()
    assert ends([vertex_draws(found), -vertex_draws(found)]) == (-np.inf, np.inf)


def lopsided(x):
    return np.where(x < 0, 0.9 * np.exp(-((x / 0.9) ** 2)), 0.9 * np.exp(-((x / 0.35) ** 2)))


def flat(x):
    return np.where(x < 0, 0.4 * np.exp(-((x / 1.6) ** 2)), 0.4 * np.exp(-((x / 1.2) ** 2)))


@pytest.mark.parametrize(("curve", "sd"), [(lopsided, 0.02), (lopsided, 0.08), (flat, 0.05)])
@pytest.mark.parametrize(("step", "num_seeds"), [(0.5, 2), (0.5, 3), (0.25, 3)])
def test_two_grids_of_one_method_at_another_phase_hardly_ever_differ(curve, sd, step, num_seeds, monkeypatch):
    monkeypatch.setattr(rate_questions, "NUM_DRAWS", 400)
    generator, told = np.random.default_rng(0), 0

    def arm(name):
        x = generator.uniform(-step / 2, step / 2) + step * (np.arange(9) - 4)
        return selection(10 ** (x - 2), curve(x)[:, None] + sd * generator.normal(size=(9, num_seeds)), name=name)

    for number in range(100):
        low, high = ends([vertex_draws(arm(f"a{number}")), -vertex_draws(arm(f"b{number}"))])
        told += low > 0 or high < 0
    assert told <= 9  # 5 and two standard errors of the simulation
