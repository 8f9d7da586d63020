from dataclasses import replace

import pytest
import torch

from bench.methods.base import FACTORS, Factors
from bench.train import alignment
from matrices import random as some

OUT, IN, R, S = 6, 9, 2, 0.7
WAYS = [{"lora_A", "lora_B"}, {"lora_B"}, {"lora_A"}, {"lora_R"}]
WAYS += [{"lora_A", "lora_B", "lora_R"}, {"lora_A", "lora_B", "lora_E"}, {"lora_E", "lora_o"}]


def some_factors(trains):
    shapes = {"lora_A": (R, IN), "lora_B": (OUT, R), "lora_R": (R, R), "lora_E": (R,), "lora_o": (OUT,)}
    given = {"lora_A", "lora_B"} | trains
    return Factors(**{part: some(*shapes[part], seed=seed) for seed, part in enumerate(FACTORS, 1) if part in given})


def tangents(factors, trains):
    """How W moves when one entry of a trained tensor moves: a column an entry."""
    columns = []
    for part in sorted(trains):
        moved = torch.func.jacrev(lambda value, part=part: S * replace(factors, **{part: value}).product())
        columns.append(moved(getattr(factors, part)).flatten(2).flatten(0, 1))
    return torch.cat(columns, dim=1)


def least_squares(G, factors, trains):
    matrix = tangents(factors, trains)
    return (matrix @ torch.linalg.lstsq(matrix, G.flatten(), driver="gelsd").solution).view_as(G)


@pytest.mark.parametrize("trains", WAYS, ids=sorted)
def test_the_attainable_gradient_is_the_least_squares_fit_of_g_over_all_directions(trains):
    G, factors = some(OUT, IN), some_factors(trains)
    expected = least_squares(G, factors, trains)
    torch.testing.assert_close(alignment.attainable_gradient(G, factors, frozenset(trains)), expected)


@pytest.mark.parametrize("trains", WAYS, ids=sorted)
def test_the_induced_gradient_is_that_of_one_step_on_every_trained_entry(trains):
    G, factors = some(OUT, IN), some_factors(trains)
    matrix = tangents(factors, trains)
    expected = (matrix @ (matrix.T @ G.flatten())).view_as(G)
    torch.testing.assert_close(alignment.induced_gradient(G, factors, S, frozenset(trains)), expected)


@pytest.mark.parametrize(
    "singular", [{"lora_R": torch.tensor([[1.0, 2.0], [2.0, 4.0]])}, {"lora_B": torch.zeros(OUT, R)}]
)
def test_it_is_also_where_r_is_singular_or_b_is_zero(singular):
    trains = frozenset({"lora_A", "lora_B", "lora_R"})
    G, factors = some(OUT, IN), replace(some_factors(trains), **{k: v.double() for k, v in singular.items()})
    torch.testing.assert_close(alignment.attainable_gradient(G, factors, trains), least_squares(G, factors, trains))


@pytest.mark.parametrize("part", ["lora_E", "lora_o"])
def test_it_is_also_where_a_vector_is_zero(part):
    trains = frozenset({"lora_E", "lora_o"})
    factors = some_factors(trains)
    factors, G = replace(factors, **{part: torch.zeros_like(getattr(factors, part))}), some(OUT, IN)
    torch.testing.assert_close(alignment.attainable_gradient(G, factors, trains), least_squares(G, factors, trains))


def test_without_an_adapter_both_are_the_gradient_itself():
    G, weight = some(OUT, IN), frozenset({"weight"})
    assert alignment.induced_gradient(G, None, 1.0, weight) is G
    assert alignment.attainable_gradient(G, None, weight) is G


def test_numbers_to_check_by_hand():
    X = torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    assert alignment.stable_rank(X) == pytest.approx(25 / 16)
    assert alignment.cosine(X, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])) == pytest.approx(3 / 5)
    assert alignment.cosine(X, torch.zeros(2, 3)) is None
    assert alignment.stable_rank(torch.zeros(2, 3)) is None


def test_singular_values_of_a_thin_product_need_no_large_matrix():
    left, right = some(OUT, 3), some(3, IN, seed=5)
    torch.testing.assert_close(alignment.low_rank_norms(left, right), torch.linalg.svdvals(left @ right)[:3])


@pytest.mark.parametrize("zero", ["lora_A", "lora_B"])
def test_while_one_factor_is_zero_only_that_factor_moves_w(zero):
    G, both = some(OUT, IN), frozenset({"lora_A", "lora_B"})
    parts = {"lora_A": some(R, IN, seed=1), "lora_B": some(OUT, R, seed=2)}
    parts[zero] = torch.zeros_like(parts[zero])
    factors = Factors(**parts)
    for whole, alone in (
        (alignment.induced_gradient(G, factors, S, both), alignment.induced_gradient(G, factors, S, {zero})),
        (alignment.attainable_gradient(G, factors, both), alignment.attainable_gradient(G, factors, {zero})),
    ):
        assert whole.norm() > 0
        torch.testing.assert_close(whole, alone)


@pytest.mark.parametrize("trains", WAYS, ids=sorted)
def test_while_both_factors_are_zero_w_cannot_move(trains):
    G, factors = some(OUT, IN), Factors(torch.zeros(R, IN).double(), torch.zeros(OUT, R).double())
    assert not alignment.induced_gradient(G, factors, S, frozenset(trains)).any()
    assert not alignment.attainable_gradient(G, factors, frozenset(trains)).any()


def test_a_repeated_column_adds_nothing_to_what_is_attainable():
    G, A, B = some(OUT, IN), some(R, IN, seed=1), some(OUT, 1, seed=2)
    repeated = alignment.attainable_gradient(G, Factors(A, torch.cat([B, 2 * B], dim=1)), frozenset({"lora_A"}))
    torch.testing.assert_close(repeated, B @ B.T @ G / B.square().sum())


@pytest.mark.parametrize("trains", WAYS, ids=sorted)
def test_the_attainable_gradient_is_the_closest_to_g_that_the_induced_one_could_be(trains):
    G, factors, trains = some(OUT, IN), some_factors(trains), frozenset(trains)
    attainable = alignment.attainable_gradient(G, factors, trains)
    induced = alignment.induced_gradient(G, factors, S, trains)
    assert alignment.cosine(induced, G) < alignment.cosine(attainable, G) < 1
    torch.testing.assert_close((attainable * (G - attainable)).sum(), torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(alignment.attainable_gradient(induced, factors, trains), induced)


def test_a_layer_that_nothing_trains_does_not_move():
    G, nothing = some(OUT, IN), frozenset()
    assert not alignment.induced_gradient(G, None, 1.0, nothing).any()
    assert not alignment.attainable_gradient(G, None, nothing).any()


def test_a_learning_rate_of_its_own_weighs_what_b_moves():
    G, factors, both = some(OUT, IN), some_factors({"lora_A"}), frozenset({"lora_A", "lora_B"})
    of_A, of_B = (alignment.induced_gradient(G, factors, S, frozenset({part})) for part in ("lora_A", "lora_B"))
    torch.testing.assert_close(alignment.induced_gradient(G, factors, S, both, lr_ratio=16.0), of_A + 16 * of_B)


@pytest.mark.parametrize("trains", [{"lora_A", "lora_B"}, {"lora_A"}, {"lora_B"}], ids=sorted)
@pytest.mark.parametrize("ratio", [1.0, 4.0])
def test_doras_induced_gradient_is_minus_the_change_of_its_effective_weight_under_one_step(trains, ratio):
    G, W, factors = some(OUT, IN), some(OUT, IN, seed=4), some_factors(trains)
    magnitude = some(OUT, seed=6).abs() + 0.5
    leaves = [tensor.clone().requires_grad_() for tensor in (factors.lora_A, factors.lora_B, magnitude)]

    def effective(A, B, size, constant_norm=False):
        V = W + S * B @ A
        norm = V.norm(dim=1)
        return (size / (norm.detach() if constant_norm else norm))[:, None] * V

    (G * effective(*leaves, constant_norm=True)).sum().backward()
    rates = [1.0 * ("lora_A" in trains), ratio * ("lora_B" in trains), ratio]
    steps = tuple(rate * leaf.grad for rate, leaf in zip(rates, leaves, strict=True))
    moved = torch.func.jvp(effective, tuple(leaf.detach() for leaf in leaves), steps)[1]
    V = W + S * factors.product()
    found = alignment.induced_dora_gradient(G, factors, S, frozenset(trains), ratio, V, magnitude)
    torch.testing.assert_close(found, moved)
