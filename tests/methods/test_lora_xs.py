import math

import pytest
import torch

from bench.methods.base import Layer
from built_methods import built
from matrices import both_orientations, random

R, S = 4, 0.7


def start(weight, r=R, seed=0, **settings):
    return built("lora_xs", **settings).factors(Layer("layer", weight, r, S), torch.Generator().manual_seed(seed))


@both_orientations
def test_b_times_a_is_the_best_rank_r_approximation_of_w(out, into):
    W = random(out, into)
    factors = start(W)
    U, singular, Vh = torch.linalg.svd(W, full_matrices=False)
    torch.testing.assert_close(factors.lora_B @ factors.lora_A, U[:, :R] * singular[:R] @ Vh[:R])


@both_orientations
def test_b_is_orthonormal_and_all_singular_values_are_in_a(out, into):
    W = random(out, into)
    factors = start(W)
    singular = torch.linalg.svdvals(W)[:R]
    torch.testing.assert_close(factors.lora_B.T @ factors.lora_B, torch.eye(R, dtype=torch.float64))
    torch.testing.assert_close(factors.lora_A @ factors.lora_A.T, torch.diag(singular.square()))


@pytest.mark.parametrize(("settings", "std"), [({}, 1e-5), ({"r_std": 0.5}, 0.5)])
def test_r_is_normal_noise_around_zero(settings, std):
    noise = start(random(80, 90), r=64, **settings).lora_R
    assert noise.std().item() == pytest.approx(std, rel=0.05)
    assert noise.mean().abs() < 0.05 * std
    assert (noise.abs() < std).float().mean().item() == pytest.approx(math.erf(0.5**0.5), abs=0.03)


def test_the_start_moves_w_by_no_more_than_the_noise_of_r():
    W = random(24, 40).float()
    moved = S * start(W, r=16).product()
    assert 0 < torch.linalg.matrix_norm(moved, 2) < 1e-5 * 2 * math.sqrt(16) * S * torch.linalg.matrix_norm(W, 2)


def test_rs_gradient_at_step_0_sees_the_gradient_in_the_singular_basis_of_w():
    W, G = random(24, 40), random(24, 40, seed=1)
    factors = start(W)
    middle = factors.lora_R.double().requires_grad_()
    (G * (W + S * factors.lora_B @ middle @ factors.lora_A)).sum().backward()
    U, singular, Vh = torch.linalg.svd(W, full_matrices=False)
    expected = S * U[:, :R].T @ G @ Vh[:R].T * singular[:R]
    torch.testing.assert_close(middle.grad.abs(), expected.abs())


def test_only_r_is_drawn_and_from_the_given_generator_alone():
    W, before = random(24, 40), torch.get_rng_state()
    one, same, other = start(W, seed=0), start(W, seed=0), start(W, seed=1)
    assert torch.equal(one.lora_R, same.lora_R)
    assert not torch.equal(one.lora_R, other.lora_R)
    assert torch.equal(one.lora_A, other.lora_A)
    assert torch.equal(one.lora_B, other.lora_B)
    assert torch.equal(torch.get_rng_state(), before)


@both_orientations
def test_the_random_basis_has_the_bounds_of_the_authors_transposed_factors(out, into):
    factors = built("lora_xs", basis="random").factors(
        Layer("layer", random(10 * out, 10 * into), 64, S), torch.Generator().manual_seed(0)
    )
    for factor, fan_in in ((factors.lora_A, 64), (factors.lora_B, 10 * out)):
        assert 0.99 / math.sqrt(fan_in) < factor.abs().max() <= 1 / math.sqrt(fan_in)
        assert factor.std().item() == pytest.approx(1 / math.sqrt(3 * fan_in), rel=0.02)
