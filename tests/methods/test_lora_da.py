import pytest
import torch

from built_methods import built
from matrices import best_approximation, both_orientations, covariance, layer_of, random

R, GAMMA, DAMPING = 4, 1024, 1e-6


def start(G, Z, y, r=R, **settings):
    seen = layer_of(torch.zeros_like(G), r, gradient=G, token_covariance=Z, output_fisher=y)
    return built("lora_da", **settings).factors(seen, torch.Generator())


def given(out, into):
    return random(out, into), covariance(into), 0.1 + random(out, seed=5).square()


def step(G, Z, y):
    """-Y⁻¹ G Z⁻¹, and its largest singular value."""
    D = -torch.linalg.solve(Z + DAMPING * torch.eye(len(Z), dtype=Z.dtype), (G / (y + DAMPING)[:, None]).T).T
    return D, torch.linalg.svdvals(D)[0]


@both_orientations
def test_without_the_variance_the_adapter_starts_as_best_rank_r_of_the_preconditioned_step(out, into):
    G, Z, y = given(out, into)
    D, largest = step(G, Z, y)
    factors = start(G, Z, y, variance_beta=0.0)
    torch.testing.assert_close(factors.product(), best_approximation(D, R) / (GAMMA * largest))


@both_orientations
@pytest.mark.parametrize("settings", [{}, {"variance_beta": 3.0, "bias_alpha": 0.5, "num_samples": 50}])
def test_a_spans_the_smallest_eigenvectors_of_bias_and_variance_and_b_is_the_step_along_them(out, into, settings):
    G, Z, y = given(out, into)
    D, largest = step(G, Z, y)
    alpha, beta = settings.get("bias_alpha", 1.0), settings.get("variance_beta", 0.03)
    share = (1 / (y + DAMPING)).sum() / (settings.get("num_samples", 100_000) * largest**2)
    Z_inverse = torch.linalg.inv(Z + DAMPING * torch.eye(into, dtype=Z.dtype))
    M = -alpha * (D / largest).T @ (D / largest) + beta * share * Z_inverse
    N = torch.linalg.eigh(M).eigenvectors[:, :R]
    factors = start(G, Z, y, **settings)
    torch.testing.assert_close(factors.lora_A.T @ factors.lora_A, N @ N.T / GAMMA)
    torch.testing.assert_close(factors.lora_B, D / largest @ factors.lora_A.T)


def test_a_large_variance_turns_the_directions_to_where_inputs_are_largest():
    G, Z, y = given(24, 40)
    A = start(G, Z, y, variance_beta=1e9).lora_A
    N = torch.linalg.eigh(Z).eigenvectors[:, -R:]
    torch.testing.assert_close(A.T @ A * GAMMA, N @ N.T, rtol=0, atol=1e-3)


@both_orientations
def test_the_built_in_step_descends(out, into):
    G, Z, y = given(out, into)
    assert (start(G, Z, y).product() * G).sum() < 0
    assert (start(G, torch.eye(into, dtype=Z.dtype), y).product() * G).sum() < 0


def test_a_layer_that_no_sample_reaches_is_refused():
    _, Z, y = given(24, 40)
    with pytest.raises(ValueError, match=r"gradient of layers\.3\.q_proj is zero"):
        start(torch.zeros(24, 40, dtype=Z.dtype), Z, y)
