import torch

from built_methods import built
from matrices import best_approximation, both_orientations, layer_of, random

R, S, SMALLER = 4, 0.7, 24


def start(W):
    return built("milora").factors(layer_of(W, R, S), torch.Generator())


@both_orientations
def test_what_stays_in_the_base_is_w_without_its_r_smallest_singular_values(out, into):
    W = random(out, into)
    torch.testing.assert_close(W - S * start(W).product(), best_approximation(W, SMALLER - R))


@both_orientations
def test_both_factors_carry_the_root_of_each_singular_value(out, into):
    W = random(out, into)
    factors, expected = start(W), torch.diag(torch.linalg.svdvals(W)[-R:] / S)
    torch.testing.assert_close(factors.lora_A @ factors.lora_A.T, expected)
    torch.testing.assert_close(factors.lora_B.T @ factors.lora_B, expected)
