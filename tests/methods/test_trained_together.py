"""NLoRA, MoSLoRA, StelLA's, SORSA's and GiVA's starts: what trains beside A and B, or around them."""

import pytest
import torch

from bench.train.alignment import induced_gradient
from built_methods import built
from matrices import best_approximation, both_orientations, layer_of, random

R, S = 4, 0.7
IDENTITY = torch.eye(R, dtype=torch.float64)


def start(name, W, G=None, **settings):
    seen = layer_of(W, R, S, **({} if G is None else {"gradient": G}))
    return built(name, **settings).factors(seen, torch.Generator().manual_seed(0))


@both_orientations
def test_nloras_factors_are_the_first_rows_columns_and_corner_of_w_and_own_their_memory(out, into):
    W = random(out, into)
    factors, kept = start("nlora", W), W.clone()
    torch.testing.assert_close(factors.product(), W[:, :R] @ W[:R, :R] @ W[:R])
    for part in (factors.lora_A, factors.lora_B, factors.lora_R):
        part.zero_()
    assert torch.equal(W, kept)


def test_of_nloras_factors_nystrom_would_need_the_inverse_of_the_corner_to_give_back_a_w_of_rank_r():
    W = best_approximation(random(24, 40), R)
    factors = start("nlora", W)
    torch.testing.assert_close(factors.lora_B @ torch.linalg.inv(factors.lora_R) @ factors.lora_A, W)
    assert (factors.product() - W).norm() > 0.5 * W.norm()


@both_orientations
def test_mosloras_mixer_and_a_are_random_and_only_b_moves_first(out, into):
    factors, G = start("moslora", random(out, into)), random(out, into, seed=1).float()
    for drawn, bound in ((factors.lora_A, into**-0.5), (factors.lora_R, R**-0.5)):
        assert 0.85 * bound < drawn.abs().max() <= bound
    assert factors.vanishes()
    moved = {part: induced_gradient(G, factors, S, frozenset({part})).norm() for part in ("lora_A", "lora_B", "lora_R")}
    assert moved["lora_A"] == moved["lora_R"] == 0 < moved["lora_B"]


@both_orientations
@pytest.mark.parametrize("basis", ["random", "svd_major", "svd_minor"])
def test_stellas_a_and_b_are_orthonormal_with_an_identity_between_them(out, into, basis):
    W = random(out, into)
    factors = start("stella", W, basis=basis)
    for rows in (factors.lora_A, factors.lora_B.T):
        torch.testing.assert_close((rows @ rows.T).double(), IDENTITY, rtol=0, atol=1e-5)
    assert torch.equal(factors.lora_R.double(), IDENTITY)
    if basis != "random":
        values = torch.linalg.svdvals(W)
        part = slice(0, R) if basis == "svd_major" else slice(len(values) - R, len(values))
        torch.testing.assert_close(factors.lora_B.T @ W @ factors.lora_A.T, torch.diag(values[part]))


@both_orientations
def test_sorsas_adapter_is_the_best_rank_r_approximation_of_w_with_its_singular_values_apart(out, into):
    W = random(out, into)
    factors = start("sorsa", W)
    torch.testing.assert_close(factors.product(), best_approximation(W, R))
    torch.testing.assert_close(factors.lora_E, torch.linalg.svdvals(W)[:R])
    for rows in (factors.lora_A, factors.lora_B.T):
        torch.testing.assert_close(rows @ rows.T, IDENTITY)


@both_orientations
def test_givas_a_and_b_are_the_first_right_and_the_next_left_singular_vectors_of_the_gradient(out, into):
    G = random(out, into)
    factors, values = start("giva", torch.zeros_like(G), G), torch.linalg.svdvals(G)
    for rows in (factors.lora_A, factors.lora_B.T):
        torch.testing.assert_close(rows @ rows.T, IDENTITY)
    torch.testing.assert_close((G @ factors.lora_A.T).norm(dim=0), values[:R])
    torch.testing.assert_close((G.T @ factors.lora_B).norm(dim=0), values[R : 2 * R])
    torch.testing.assert_close(factors.lora_B.T @ G @ factors.lora_A.T, torch.zeros_like(IDENTITY))
    assert torch.equal(factors.lora_E, torch.ones_like(factors.lora_E))
    assert factors.vanishes()
    moved = {part: induced_gradient(G, factors, S, frozenset({part})).norm() for part in ("lora_E", "lora_o")}
    assert moved["lora_E"] == 0 < moved["lora_o"]


def test_givas_rank_beyond_half_a_layers_smaller_side_is_refused():
    with pytest.raises(ValueError, match="GiVA uses 2r = 26"):
        built("giva").check(layer_of(random(24, 40), r=13))
