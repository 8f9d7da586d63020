import math

import pytest
import torch

from bench.methods.base import Layer, Rank, scaling_value
from built_methods import built

OUT, IN, R, S = 24, 40, 4, 0.7


def drawn(out=OUT, into=IN, r=R, seed=0):
    return built("reversed").factors(Layer("layer", torch.zeros(out, into), r, S), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("out", "into"), [(24, 40), (40, 24)])
def test_factors_have_pefts_shapes_and_a_zero_a(out, into):
    factors = drawn(out, into)
    assert factors.lora_A.shape == (R, into)
    assert factors.lora_B.shape == (out, R)
    assert factors.lora_R is None
    assert not factors.lora_A.any()


@pytest.mark.parametrize(("out", "r"), [(400, 64), (900, 16)])
def test_b_is_uniform_within_one_over_root_of_the_rank_whatever_the_width(out, r):
    B, bound = drawn(out=out, into=10, r=r).lora_B, 1 / math.sqrt(r)
    assert 0.99 * bound < B.abs().max() <= bound
    assert B.std().item() == pytest.approx(1 / math.sqrt(3 * r), rel=0.02)
    assert B.mean().abs() < 0.02 * bound


def test_at_step_0_only_a_has_a_gradient():
    generator = torch.Generator().manual_seed(1)
    W, X, Y = (torch.randn(*shape, generator=generator) for shape in ((OUT, IN), (IN, 7), (OUT, 7)))
    factors = drawn()
    A, B = factors.lora_A.requires_grad_(), factors.lora_B.requires_grad_()
    ((W + S * B @ A) @ X - Y).square().sum().div(2).backward()
    G = (W @ X - Y) @ X.T
    assert not B.grad.any()
    torch.testing.assert_close(A.grad, S * B.T @ G, rtol=1e-5, atol=1e-4)


def test_factors_follow_the_given_generator_and_no_other():
    before = torch.get_rng_state()
    assert torch.equal(drawn(seed=0).lora_B, drawn(seed=0).lora_B)
    assert not torch.equal(drawn(seed=0).lora_B, drawn(seed=1).lora_B)
    assert torch.equal(torch.get_rng_state(), before)


def test_scaling_is_alpha_over_r():
    assert scaling_value(built("reversed").scaling, Rank("r8", 8, 24)) == 3.0
