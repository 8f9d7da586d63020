import math

import pytest
import torch

from bench.methods.base import Layer
from built_methods import built

OUT, IN, R, S = 24, 40, 4, 0.7


def drawn(out=OUT, into=IN, r=R, seed=0):
    return built("hu").factors(Layer("layer", torch.zeros(out, into), r, S), torch.Generator().manual_seed(seed))


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


def test_a_gaussian_a_has_standard_deviation_one_over_r_whatever_the_width():
    for into in (400, 100):
        layer = Layer("layer", torch.zeros(OUT, into), 64, S)
        A = built("hu", distribution="gaussian").factors(layer, torch.Generator().manual_seed(0)).lora_A
        assert A.std().item() == pytest.approx(1 / 64, rel=0.03)
        assert (A.abs() < 1 / 64).float().mean().item() == pytest.approx(math.erf(0.5**0.5), abs=0.02)
