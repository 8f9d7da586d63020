import pytest
import torch

from bench.methods.k_step import adalomo_step
from built_methods import built
from matrices import best_approximation, both_orientations, layer_of, random

R = 4


def start(W, G, **settings):
    return built("k_step", **settings).factors(layer_of(W, R, 0.7, gradient=G), torch.Generator())


@both_orientations
def test_the_adapter_starts_as_best_rank_r_of_the_full_step(out, into):
    W, G = random(out, into), random(out, into, seed=1)
    torch.testing.assert_close(start(W, G, eta=0.3).product(), best_approximation(adalomo_step(W, G, 0.3), R))


@both_orientations
def test_both_factors_carry_the_root_of_each_singular_value(out, into):
    W, G = random(out, into), random(out, into, seed=1)
    factors = start(W, G, eta=0.3)
    expected = torch.diag(torch.linalg.svdvals(adalomo_step(W, G, 0.3))[:R])
    torch.testing.assert_close(factors.lora_A @ factors.lora_A.T, expected)
    torch.testing.assert_close(factors.lora_B.T @ factors.lora_B, expected)


@both_orientations
def test_of_a_gradient_of_rank_one_the_step_is_its_signs_times_the_size_of_w(out, into):
    left, right = random(out, 1, seed=2), random(1, into, seed=3)
    W, step = random(out, into), adalomo_step(random(out, into), left @ right, 0.3)
    torch.testing.assert_close(step, -0.3 * W.square().mean().sqrt() * (left @ right).sign())


def test_an_update_is_clipped_to_root_mean_square_one_and_a_small_w_moves_as_one_of_a_thousandth():
    W, G = random(24, 40), random(24, 40, seed=1)
    W[0, 0], G[3, 5] = 5.0, 100.0
    size = adalomo_step(W, G, 1.0).square().mean().sqrt() / W.square().mean().sqrt()
    assert size <= 1 + 1e-9
    tiny, none = adalomo_step(1e-9 * W, G, 1.0), adalomo_step(0 * W, G, 1.0)
    torch.testing.assert_close(tiny, none)
    assert none.square().mean().sqrt() == pytest.approx(1e-3, rel=0.1)


@both_orientations
def test_the_built_in_step_descends_and_the_size_of_the_gradient_does_not_matter(out, into):
    W, G = random(out, into), random(out, into, seed=1)
    assert (start(W, G).product() * G).sum() < 0
    torch.testing.assert_close(start(W, G).product(), start(W, 1e-3 * G).product())


def test_a_layer_that_no_sample_reaches_is_refused():
    with pytest.raises(ValueError, match=r"gradient of layers\.3\.q_proj is zero.*task\.calibration_samples"):
        start(random(24, 40), torch.zeros(24, 40))
