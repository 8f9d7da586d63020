import math

import pytest
import torch

from bench.methods.base import Layer
from built_methods import built

OUT, IN, R, S = 24, 40, 4, 0.7


def drawn(out=OUT, into=IN, r=R, seed=0):
    return built("reversed").factors(Layer("layer", torch.zeros(out, into), r, S), torch.Generator().manual_seed(seed))


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
