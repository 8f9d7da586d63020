import math

import pytest
import torch

from bench.methods.base import Layer, Rank, scaling_value
from built_methods import built

OUT, IN, R, S = 24, 40, 4, 0.7


def drawn(out=OUT, into=IN, r=R, seed=0):
    return built("hu").factors(Layer("layer", torch.zeros(out, into), r, S), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("out", "into"), [(24, 40), (40, 24)])
def test_factors_have_pefts_shapes_and_a_zero_b(out, into):
    factors = drawn(out, into)
    assert factors.lora_A.shape == (R, into)
    assert factors.lora_B.shape == (out, R)
    assert factors.lora_R is None
    assert not factors.lora_B.any()


@pytest.mark.parametrize(("into", "r"), [(400, 64), (100, 96)])
def test_a_is_uniform_within_one_over_root_of_the_width_whatever_the_rank(into, r):
    A, bound = drawn(out=10, into=into, r=r).lora_A, 1 / math.sqrt(into)
    assert 0.99 * bound < A.abs().max() <= bound
    assert A.std().item() == pytest.approx(1 / math.sqrt(3 * into), rel=0.02)
    assert A.mean().abs() < 0.02 * bound


def test_at_step_0_only_b_has_a_gradient():
    generator = torch.Generator().manual_seed(1)
    W, X, Y = (torch.randn(*shape, generator=generator) for shape in ((OUT, IN), (IN, 7), (OUT, 7)))
    factors = drawn()
    A, B = factors.lora_A.requires_grad_(), factors.lora_B.requires_grad_()
    ((W + S * B @ A) @ X - Y).square().sum().div(2).backward()
    G = (W @ X - Y) @ X.T
    assert not A.grad.any()
    torch.testing.assert_close(B.grad, S * G @ A.T, rtol=1e-5, atol=1e-4)


def test_factors_follow_the_given_generator_and_no_other():
    before = torch.get_rng_state()
    assert torch.equal(drawn(seed=0).lora_A, drawn(seed=0).lora_A)
    assert not torch.equal(drawn(seed=0).lora_A, drawn(seed=1).lora_A)
    assert torch.equal(torch.get_rng_state(), before)


def test_scaling_is_alpha_over_r():
    assert scaling_value(built("hu").scaling, Rank("r8", 8, 24)) == 3.0


def test_a_gaussian_a_has_standard_deviation_one_over_r_whatever_the_width():
    for into in (400, 100):
        layer = Layer("layer", torch.zeros(OUT, into), 64, S)
        A = built("hu", distribution="gaussian").factors(layer, torch.Generator().manual_seed(0)).lora_A
        assert A.std().item() == pytest.approx(1 / 64, rel=0.03)
        assert (A.abs() < 1 / 64).float().mean().item() == pytest.approx(math.erf(0.5**0.5), abs=0.02)
