import math

import pytest
import torch

from built_methods import built
from matrices import layer_of, random

R, S = 4, 0.7


def drawn(name, out, into, r=R, **settings):
    layer = layer_of(torch.zeros(out, into), r, S)
    return built(name, **settings).factors(layer, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "out", "into", "r", "fan_in"),
    [("hu", 10, 400, 64, 400), ("hu", 10, 100, 96, 100), ("reversed", 400, 10, 64, 64), ("reversed", 900, 10, 16, 16)],
)
def test_a_is_uniform_within_one_over_root_of_the_width_and_a_reversed_b_of_the_rank(name, out, into, r, fan_in):
    factors, bound = drawn(name, out, into, r), 1 / math.sqrt(fan_in)
    factor = factors.lora_A if name == "hu" else factors.lora_B
    assert 0.99 * bound < factor.abs().max() <= bound
    assert factor.std().item() == pytest.approx(1 / math.sqrt(3 * fan_in), rel=0.02)
    assert factor.mean().abs() < 0.02 * bound


@pytest.mark.parametrize("name", ["hu", "reversed"])
def test_at_step_0_only_the_zero_factor_has_a_gradient(name):
    W, X, Y = (random(*shape, seed=seed).float() for seed, shape in enumerate(((24, 40), (40, 7), (24, 7))))
    factors = drawn(name, 24, 40)
    A, B = factors.lora_A.requires_grad_(), factors.lora_B.requires_grad_()
    ((W + S * B @ A) @ X - Y).square().sum().div(2).backward()
    G = (W @ X - Y) @ X.T
    moved, still, expected = (B, A, S * G @ A.T) if name == "hu" else (A, B, S * B.T @ G)
    assert not still.grad.any()
    torch.testing.assert_close(moved.grad, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("into", [400, 100])
def test_a_gaussian_a_has_standard_deviation_one_over_r_whatever_the_width(into):
    A = drawn("hu", 24, into, 64, distribution="gaussian").lora_A
    assert A.std().item() == pytest.approx(1 / 64, rel=0.03)
    assert (A.abs() < 1 / 64).float().mean().item() == pytest.approx(math.erf(0.5**0.5), abs=0.02)
