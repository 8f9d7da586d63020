import pytest
import torch

from built_methods import built
from matrices import both_orientations, covariance, layer_of, random

R, S = 4, 0.7


def start(name, W, C, **settings):
    return built(name, **settings).factors(layer_of(W, R, S, input_covariance=C), torch.Generator())


def null_projector(C):
    N = torch.linalg.svd(C)[0][:, -R:]
    return N @ N.T


@both_orientations
@pytest.mark.parametrize("name", ["lora_null", "lora_null_v2"])
def test_the_adapter_takes_over_what_w_does_where_inputs_are_smallest(out, into, name):
    W, C = random(out, into), covariance(into)
    torch.testing.assert_close(S * start(name, W, C).product(), W @ null_projector(C))


@both_orientations
def test_both_factors_carry_the_root_of_each_singular_value(out, into):
    W, C = random(out, into), covariance(into)
    factors, values = start("lora_null", W, C), torch.linalg.svdvals(W @ null_projector(C))[:R]
    expected = torch.diag(values / S)
    torch.testing.assert_close(factors.lora_A @ factors.lora_A.T, expected)
    torch.testing.assert_close(factors.lora_B.T @ factors.lora_B, expected)


@both_orientations
def test_the_zero_start_sees_the_smallest_inputs_through_orthonormal_rows_and_leaves_w(out, into):
    W, C = random(out, into), covariance(into)
    factors = start("lora_null", W, C, start="zero")
    assert not factors.lora_B.any()
    torch.testing.assert_close(factors.lora_A.T @ factors.lora_A, null_projector(C))


def test_inputs_that_span_no_more_than_n_minus_r_directions_never_reach_the_adapter():
    W, X = random(24, 40), random(36, 40, seed=3)
    factors = start("lora_null", W, X.T @ X)
    assert (X @ factors.lora_A.T).abs().max() < 1e-9 * X.norm() * factors.lora_A.norm()


def test_the_size_of_the_covariance_does_not_matter():
    W, C = random(24, 40), covariance(40)
    torch.testing.assert_close(start("lora_null", W, C).product(), start("lora_null", W, 1e3 * C).product())


def test_a_null_space_wider_than_the_adapter_is_warned_about_with_the_counts():
    X = random(10, 40)
    with pytest.warns(UserWarning, match=r"layers\.3\.q_proj has rank 10 of 40.*r = 4 of its 30 null directions"):
        start("lora_null", random(24, 40), X.T @ X)


@pytest.mark.parametrize("name", ["lora_null", "lora_null_v2"])
def test_a_layer_that_no_sample_reaches_is_refused(name):
    with pytest.raises(ValueError, match=r"input_covariance of layers\.3\.q_proj is zero.*task\.calibration_samples"):
        start(name, random(24, 40), torch.zeros(40, 40))
