import math

import pytest
import torch

from built_methods import built
from matrices import both_orientations, layer_of, random

R, S, ETA = 4, 0.7, 0.05


def start(W, G, r=R, scaling=S, **settings):
    generator = torch.Generator().manual_seed(0)
    return built("gora", **settings).factors(layer_of(W, r, scaling, gradient=G), generator)


def on_rows(G, A):
    return G @ torch.linalg.pinv(A) @ A


@both_orientations
@pytest.mark.parametrize(("sign", "direction"), [("descent", -1), ("released", 1)])
def test_the_adapter_starts_as_a_step_along_the_gradient_projected_on_as_rows(out, into, sign, direction):
    W, G = random(out, into), random(out, into, seed=1)
    factors = start(W, G, sign=sign)
    expected = direction * ETA * math.sqrt(into / R) * on_rows(G, factors.lora_A)
    torch.testing.assert_close(S * factors.product(), expected, rtol=1e-6, atol=1e-7)  # A Aᵀ is damped by 1e-8


@both_orientations
def test_the_built_in_step_descends_and_that_of_the_released_code_goes_uphill_by_as_much(out, into):
    W, G = random(out, into), random(out, into, seed=1)
    descent, released = start(W, G), start(W, G, sign="released")
    assert (descent.product() * G).sum() < 0
    torch.testing.assert_close(descent.product(), -released.product())
    assert torch.equal(descent.lora_A, released.lora_A)


@both_orientations
def test_a_is_uniform_and_the_step_does_not_depend_on_the_scaling(out, into):
    W, G = random(out, into), random(out, into, seed=1)
    factors = start(W, G)
    assert 0.9 / math.sqrt(into) < factors.lora_A.abs().max() <= 1 / math.sqrt(into)
    torch.testing.assert_close(S * factors.product(), 4.0 * start(W, G, scaling=4.0).product())


def test_ranks_follow_the_mean_of_w_times_g_within_bounds_and_the_budget_of_parameters():
    W, G = random(24, 40), random(24, 40, seed=1)
    layers = [layer_of(W, 8, gradient=c * G) for c in (1.0, 3.0, 1e-6, 100.0)]
    named = [type(layer)(f"layer{i}", layer.weight, 8, 1.0, layer.gradient) for i, layer in enumerate(layers)]
    ranks = built("gora").ranks(named[:3])
    assert ranks == {"layer0": 6, "layer1": 18, "layer2": 4}  # 24 times 1/4, 3/4, and the smallest, 8/2
    assert built("gora").ranks(named)["layer3"] == 24  # its smaller side, which is below 4 · 8


def test_a_layer_without_a_gradient_starts_as_plain_lora():
    factors = start(random(24, 40), torch.zeros(24, 40, dtype=torch.float64))
    assert not factors.lora_B.any()
    assert factors.lora_A.all()
