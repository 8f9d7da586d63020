import torch

from built_methods import built
from matrices import best_approximation, both_orientations, layer_of, random

R, S = 4, 0.7


def start(W):
    return built("pissa").factors(layer_of(W, R, S), torch.Generator())


@both_orientations
def test_the_adapter_takes_over_the_best_rank_r_approximation_of_w(out, into):
    W = random(out, into)
    torch.testing.assert_close(S * start(W).product(), best_approximation(W, R))


@both_orientations
def test_what_stays_in_the_base_is_orthogonal_to_both_factors(out, into):
    W = random(out, into)
    factors = start(W)
    residual = W - S * factors.product()
    assert (factors.lora_B.T @ residual).abs().max() < 1e-12
    assert (residual @ factors.lora_A.T).abs().max() < 1e-12


@both_orientations
def test_both_factors_carry_the_root_of_each_singular_value(out, into):
    W = random(out, into)
    factors, expected = start(W), torch.diag(torch.linalg.svdvals(W)[:R] / S)
    torch.testing.assert_close(factors.lora_A @ factors.lora_A.T, expected)
    torch.testing.assert_close(factors.lora_B.T @ factors.lora_B, expected)
