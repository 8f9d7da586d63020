import pytest
import torch

from built_methods import built
from matrices import best_approximation, both_orientations, layer_of, random

R = 4


def start(G, **settings):
    return built("lora_one", **settings).factors(layer_of(torch.zeros_like(G), R, gradient=G), torch.Generator())


@both_orientations
@pytest.mark.parametrize("gamma", [128.0, 16.0])
def test_the_adapter_starts_as_best_rank_r_of_minus_the_gradient_with_largest_value_one_over_gamma(out, into, gamma):
    G = random(out, into)
    largest = torch.linalg.matrix_norm(G, 2)
    torch.testing.assert_close(start(G, gamma=gamma).product(), -best_approximation(G, R) / (gamma * largest))


@both_orientations
def test_both_factors_carry_the_root_of_each_singular_value(out, into):
    G = random(out, into)
    values = torch.linalg.svdvals(G)
    factors, expected = start(G), torch.diag(values[:R] / (128 * values[0]))
    torch.testing.assert_close(factors.lora_A @ factors.lora_A.T, expected)
    torch.testing.assert_close(factors.lora_B.T @ factors.lora_B, expected)


@both_orientations
def test_the_built_in_step_descends_and_the_size_of_the_gradient_does_not_matter(out, into):
    G = random(out, into)
    assert (start(G).product() * G).sum() < 0
    torch.testing.assert_close(start(G).product(), start(1e-3 * G).product())
