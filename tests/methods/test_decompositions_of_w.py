"""PiSSA, MiLoRA, Middle, PSOFT, MiCA and OLoRA: starts that are a decomposition of the pretrained W."""

import pytest
import torch

from built_methods import built
from matrices import best_approximation, both_orientations, layer_of, random

R, S, SMALLER = 4, 0.7, 24
IDENTITY = torch.eye(R, dtype=torch.float64)


def start(name, W, scaling=S):
    return built(name).factors(layer_of(W, R, scaling), torch.Generator())


@both_orientations
def test_pissas_adapter_takes_over_the_best_rank_r_approximation_of_w(out, into):
    W = random(out, into)
    torch.testing.assert_close(S * start("pissa", W).product(), best_approximation(W, R))


@both_orientations
def test_what_pissa_leaves_in_the_base_is_orthogonal_to_both_factors(out, into):
    W = random(out, into)
    factors = start("pissa", W)
    residual = W - S * factors.product()
    assert (factors.lora_B.T @ residual).abs().max() < 1e-12
    assert (residual @ factors.lora_A.T).abs().max() < 1e-12


@both_orientations
def test_what_milora_leaves_in_the_base_is_w_without_its_r_smallest_singular_values(out, into):
    W = random(out, into)
    torch.testing.assert_close(W - S * start("milora", W).product(), best_approximation(W, SMALLER - R))


@both_orientations
@pytest.mark.parametrize(
    ("name", "values"),
    [("pissa", slice(0, R)), ("middle", slice(10, 14)), ("milora", slice(SMALLER - R, SMALLER))],
)
def test_both_factors_carry_the_root_of_each_singular_value(name, values, out, into):
    W = random(out, into)
    factors, expected = start(name, W), torch.diag(torch.linalg.svdvals(W)[values] / S)
    torch.testing.assert_close(factors.lora_A @ factors.lora_A.T, expected)
    torch.testing.assert_close(factors.lora_B.T @ factors.lora_B, expected)


@both_orientations
def test_micas_b_spans_the_left_directions_in_which_w_is_smallest_and_its_a_is_zero(out, into):
    W = random(out, into)
    factors = start("mica", W)
    assert not factors.lora_A.any()
    torch.testing.assert_close(factors.lora_B.T @ factors.lora_B, IDENTITY)
    torch.testing.assert_close(torch.linalg.svdvals(factors.lora_B.T @ W), torch.linalg.svdvals(W)[SMALLER - R :])


@both_orientations
def test_oloras_b_is_orthonormal_and_its_a_upper_triangular(out, into):
    factors = start("olora", random(out, into))
    torch.testing.assert_close(factors.lora_B.T @ factors.lora_B, IDENTITY)
    assert torch.equal(factors.lora_A, factors.lora_A.triu())


@both_orientations
def test_oloras_product_has_the_first_r_columns_of_w_and_projects_the_others_on_them(out, into):
    W = random(out, into)
    projector = W[:, :R] @ torch.linalg.pinv(W[:, :R])
    torch.testing.assert_close(start("olora", W).product(), projector @ W)


def test_oloras_factors_do_not_know_the_scaling():
    W = random(24, 40)
    assert torch.equal(start("olora", W).product(), start("olora", W, 2.0).product())


@both_orientations
def test_middles_adapter_takes_over_the_components_in_the_middle_of_the_spectrum(out, into):
    W = random(out, into)
    torch.testing.assert_close(S * start("middle", W).product(), best_approximation(W, 14) - best_approximation(W, 10))


@both_orientations
@pytest.mark.parametrize("halves", ["psoft_init", "pissa_init"])
def test_psofts_adapter_takes_over_the_best_rank_r_approximation_of_w_through_an_identity(out, into, halves):
    W = random(out, into)
    factors = built("psoft", halves=halves).factors(layer_of(W, R, S), torch.Generator())
    assert torch.equal(factors.lora_R, IDENTITY)
    torch.testing.assert_close(S * factors.product(), best_approximation(W, R))
    values = torch.diag(torch.linalg.svdvals(W)[:R] / S)
    of_A = IDENTITY if halves == "psoft_init" else values
    torch.testing.assert_close(factors.lora_A @ factors.lora_A.T, of_A)
    torch.testing.assert_close(factors.lora_B.T @ factors.lora_B, values @ values @ torch.linalg.inv(of_A))


@both_orientations
def test_the_fast_svd_of_pissa_projects_w_and_is_pissa_where_iterations_suffice(out, into):
    W = random(out, into)
    few, many = (built("pissa_niter", niter=niter).factors(layer_of(W, R, S), torch.Generator()) for niter in (1, 200))
    left = W - S * few.product()
    outside = left @ few.lora_A.T if out < into else few.lora_B.T @ left  # it projects on the longer side
    assert outside.abs().max() < 1e-12
    assert 1.001 < left.norm() / (W - best_approximation(W, R)).norm() < 1.2
    torch.testing.assert_close(S * many.product(), best_approximation(W, R), rtol=0, atol=1e-6)
