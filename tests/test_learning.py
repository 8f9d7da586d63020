import math

import numpy as np
import pytest
from records import a_config, a_score, make_record

from bench.report.judge.learning import chance_of, failures_of, has_learned
from bench.report.judge.metrics import Scale
from bench.report.judge.scores import collect
from bench.report.judge.statistics import estimate
from bench.report.read.load import Cell


def cell(values, rose=(), **about):
    """A cell of runs with these scores, of which those at the places `rose` ended with a higher training loss."""
    records = [
        make_record(
            f"run-{seed}",
            config=a_config(seed=seed),
            training={"num_steps": 3, "loss_rose": seed in rose},
            scores=[a_score(value, **({"stderr": 0.01, "majority": 0.5} | about))],
        )
        for seed, value in enumerate(values)
    ]
    return Cell("hu", "LoRA", {}, records, [])


def judged(function, of):
    (found,) = collect([of]).found
    ((column, one),) = found.items()
    return function(of, column, one) if function is failures_of else function(column, one)


def test_collapsed_runs_are_counted_apart_from_the_mean_of_those_that_trained():
    found = judged(failures_of, cell((0.8, 0.79, 0.509)))
    assert (found.num_collapsed, found.n, found.mean_of_others) == (1, 3, pytest.approx(0.795))
    assert (found.low, found.high) == pytest.approx((0.0615, 0.7923), abs=1e-4)  # Wilson


def test_a_run_is_clear_of_chance_by_two_of_its_standard_errors():
    assert judged(failures_of, cell((0.8, 0.521))) is None
    assert judged(failures_of, cell((0.8, 0.519))).num_collapsed == 1


def test_a_run_whose_training_loss_rose_has_collapsed_whatever_its_score():
    assert judged(failures_of, cell((0.8, 0.8, 0.8), rose=(1,))).num_collapsed == 1


def test_where_all_or_none_collapse_there_is_no_rate_beside_the_mean():
    assert judged(failures_of, cell((0.5, 0.51))) is None
    assert judged(failures_of, cell((0.8, 0.9))) is None


def test_generated_answers_have_no_chance_and_a_loss_knows_none():
    assert judged(chance_of, cell((0.8,), metric="exact_match", majority=None)) == 0.0
    assert judged(chance_of, cell((0.8,), metric="loss", majority=None, higher_is_better=False)) is None
    assert judged(chance_of, cell((0.8,))) == 0.5


def test_a_cell_has_learned_where_its_mean_is_clear_of_chance_over_seeds_and_items():
    assert judged(has_learned, cell((0.53, 0.53, 0.53)))
    assert not judged(has_learned, cell((0.515, 0.515, 0.515)))
    assert not judged(has_learned, cell((0.80, 0.53, 0.40)))
    assert judged(has_learned, cell((2.0, 3.0), metric="loss", majority=None, higher_is_better=False))


def test_intervals_of_means_do_not_cover_where_one_run_in_five_collapses():
    generator, covered = np.random.default_rng(0), 0
    for _ in range(500):
        trained = generator.random(3) > 0.2
        values = np.where(trained, 0.8, 0.5) + 0.01 * generator.normal(size=3)
        found = estimate(values.tolist(), 0.01, Scale(low=-math.inf, high=math.inf))
        covered += found.low < 0.8 * 0.8 + 0.2 * 0.5 < found.high
    assert covered / 500 < 0.8
