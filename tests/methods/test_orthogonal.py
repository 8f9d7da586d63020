import pytest
import torch

from built_methods import built
from matrices import both_orientations, layer_of, random


def start(out, into, r=4, seed=0):
    return built("orthogonal").factors(layer_of(random(out, into), r), torch.Generator().manual_seed(seed))


@both_orientations
def test_neither_factor_is_zero_and_their_product_is(out, into):
    factors = start(out, into)
    assert factors.lora_A.norm() > 0.5
    assert factors.lora_B.norm() > 0.5
    assert factors.product().norm() < 1e-6 * factors.lora_A.norm() * factors.lora_B.norm()


@both_orientations
def test_each_factor_has_half_the_rank(out, into):
    factors = start(out, into)
    assert torch.linalg.matrix_rank(factors.lora_A) == torch.linalg.matrix_rank(factors.lora_B) == 2


def test_entries_are_a_tenth_of_gaussians_projected_on_half_the_space():
    factors = start(400, 500, r=64)
    for factor in (factors.lora_A, factors.lora_B):
        assert factor.std().item() == pytest.approx(0.1 * 0.5**0.5, rel=0.03)
        assert factor.mean().abs() < 0.002


@pytest.mark.parametrize("r", [3, 7])
def test_an_odd_rank_is_refused_with_layer_value_and_remedy(r):
    with pytest.raises(ValueError, match=rf"layers\.3\.q_proj is to have r = {r}; take an even r, {r - 1} or {r + 1}"):
        built("orthogonal").check(layer_of(random(24, 40), r))


@pytest.mark.parametrize("r", [2, 8, 16])
def test_a_product_that_is_rounding_counts_as_zero_and_one_that_is_not_does_not(r):
    factors = start(240, 400, r)
    assert factors.vanishes()
    assert factors.product().any()
    assert not type(factors)(factors.lora_A, factors.lora_B + 1e-5).vanishes()
