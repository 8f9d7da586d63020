import pytest
import torch

from built_methods import built
from matrices import both_orientations, covariance, layer_of, random

R, S = 4, 0.7


def start(W, C, **settings):
    return built("corda", **settings).factors(layer_of(W, R, S, input_covariance=C), torch.Generator())


def damped(C, share=0.01):
    return C + share * C.diagonal().mean() * torch.eye(len(C), dtype=C.dtype)


@both_orientations
@pytest.mark.parametrize(("mode", "part"), [("ipm", slice(0, R)), ("kpm", slice(24 - R, 24))])
def test_the_adapter_takes_over_a_part_of_w_in_the_metric_of_its_inputs(out, into, mode, part):
    W, C = random(out, into), covariance(into)
    U, singular, Vh = torch.linalg.svd(W @ damped(C), full_matrices=False)
    taken = S * start(W, C, mode=mode).product()
    torch.testing.assert_close(taken @ damped(C), U[:, part] * singular[part] @ Vh[part])
    torch.testing.assert_close((W - taken) @ damped(C) + taken @ damped(C), W @ damped(C))


@both_orientations
def test_b_carries_the_root_of_each_singular_value_and_a_the_rest(out, into):
    W, C = random(out, into), covariance(into)
    factors, singular = start(W, C), torch.linalg.svdvals(W @ damped(C))[:R]
    torch.testing.assert_close(factors.lora_B.T @ factors.lora_B, torch.diag(singular / S))
    seen = factors.lora_A @ damped(C)
    torch.testing.assert_close(seen @ seen.T, torch.diag(singular / S))


def test_with_inputs_of_equal_strength_in_all_directions_it_is_pissa():

    W = random(24, 40)
    expected = built("pissa").factors(layer_of(W, R, S), torch.Generator()).product()
    torch.testing.assert_close(start(W, torch.eye(40, dtype=torch.float64)).product(), expected)


def test_a_covariance_of_low_rank_is_damped_until_its_inverse_is_good():
    W, thin = random(24, 40).float(), random(40, 3).float()
    factors = start(W, 1e6 * thin @ thin.T)
    assert factors.product().isfinite().all()
    assert (S * factors.product()).norm() <= 1.5 * W.norm()
