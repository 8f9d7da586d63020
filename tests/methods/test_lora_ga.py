import math

import pytest
import torch

from bench.methods.base import Layer
from bench.methods.lora_ga import LoRAGA
from built_methods import built
from matrices import best_approximation, both_orientations, random

R, S = 4, 0.7


def start(gradient, r=R, gamma=16.0):
    layer = Layer("layers.3.q_proj", torch.zeros_like(gradient), r, S, gradient)
    return built("lora_ga", gamma=gamma).factors(layer, torch.Generator())


@both_orientations
@pytest.mark.parametrize("gamma", [16.0, 64.0])
def test_first_step_moves_w_along_best_rank_2r_of_gradient(out, into, gamma):
    W, X, Y = random(out, into, seed=1), random(into, 50, seed=2), random(out, 50, seed=3)
    G = (W @ X - Y) @ X.T
    factors = start(G, gamma=gamma)
    residual = W - S * factors.product()
    A, B = factors.lora_A.clone().requires_grad_(), factors.lora_B.clone().requires_grad_()
    ((residual + S * B @ A) @ X - Y).square().sum().div(2).backward()
    moved = S * (B.grad @ factors.lora_A + factors.lora_B @ A.grad)
    expected = S**2 * math.sqrt(out) / gamma * best_approximation(G, 2 * R)
    assert (moved - expected).norm() < 1e-5 * expected.norm()


@both_orientations
def test_a_holds_right_vectors_1_to_r_and_b_left_vectors_r_plus_1_to_2r(out, into):
    G = random(out, into)
    factors = start(G)
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    length = out**0.25 / 16**0.5
    blocks_of_A, blocks_of_B = factors.lora_A @ Vh.T, U.T @ factors.lora_B
    assert blocks_of_A[:, :R].diagonal().abs().tolist() == pytest.approx([length] * R)
    assert blocks_of_B[R : 2 * R].diagonal().abs().tolist() == pytest.approx([length] * R)
    assert blocks_of_A[:, R:].abs().max() < 1e-10
    assert blocks_of_B[:R].abs().max() < 1e-10
    assert blocks_of_B[2 * R :].abs().max() < 1e-10


@both_orientations
def test_factors_have_orthogonal_vectors_of_equal_length(out, into):
    factors = start(random(out, into), gamma=64.0)
    expected = math.sqrt(out) / 64 * torch.eye(R, dtype=torch.float64)
    torch.testing.assert_close(factors.lora_A @ factors.lora_A.T, expected)
    torch.testing.assert_close(factors.lora_B.T @ factors.lora_B, expected)


def test_the_size_of_the_gradient_does_not_matter():
    G = random(24, 40)
    torch.testing.assert_close(start(G).product(), start(1e-3 * G).product())


@both_orientations
def test_a_rank_of_half_the_smaller_side_is_the_largest_accepted(out, into):
    assert start(random(out, into), r=12).lora_B.shape == (out, 12)
    built("lora_ga").check(Layer("layers.3.q_proj", random(out, into), 12, S))
    with pytest.raises(ValueError, match=r"2r = 26 .*layers\.3\.q_proj has a side of 24; take r of at most 12"):
        built("lora_ga").check(Layer("layers.3.q_proj", random(out, into), 13, S))


def blocks(factors, G):
    """Which singular vectors, from 0, A and B are made of."""
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    return tuple(
        (matrix.abs() > 1e-6).nonzero()[:, 1].tolist() for matrix in (factors.lora_A @ Vh.T, factors.lora_B.T @ U)
    )


def optioned(G, W=None, generator=None, **settings):
    W = torch.zeros_like(G) if W is None else W
    return built("lora_ga", **settings).factors(Layer("layers.3.q_proj", W, R, S, G), generator or torch.Generator())


@both_orientations
@pytest.mark.parametrize(
    ("direction", "of_A", "of_B"),
    [
        ("ArB2r", [0, 1, 2, 3], [4, 5, 6, 7]),
        ("A2rBr", [4, 5, 6, 7], [0, 1, 2, 3]),
        ("ArBr", [1, 3, 5, 7], [0, 2, 4, 6]),
    ],
)
def test_directions_choose_disjoint_blocks(out, into, direction, of_A, of_B):
    G = random(out, into)
    assert blocks(optioned(G, direction=direction), G) == (of_A, of_B)


def test_the_random_direction_splits_the_first_2r_vectors_by_the_generator():
    G = random(24, 40)
    found = [blocks(optioned(G, direction="random", generator=torch.Generator().manual_seed(s)), G) for s in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    for of_A, of_B in found:
        assert sorted(of_A + of_B) == list(range(8))


@both_orientations
@pytest.mark.parametrize("direction", ["A2rBr", "ArBr", "random"])
def test_every_direction_moves_w_along_the_first_2r_directions_of_the_gradient(out, into, direction):
    from bench.train.alignment import induced_gradient

    G = random(out, into)
    factors = optioned(G, direction=direction)
    expected = S**2 * math.sqrt(out) / 16 * best_approximation(G, 2 * R)
    torch.testing.assert_close(induced_gradient(G, factors, S, LoRAGA.trains), expected)


@both_orientations
def test_scales_set_the_length_of_every_vector(out, into):
    G, W = random(out, into), random(out, into, seed=5)
    roots = (torch.linalg.svdvals(W)[:R] / S).sqrt()
    for scale, length in (("unit", 1.0), ("gd", 1 / S), ("weight_svd", roots.mean().item())):
        factors = optioned(G, W, scale=scale)
        assert factors.lora_A.norm(dim=1).tolist() == pytest.approx([length] * R)
        assert factors.lora_B.norm(dim=0).tolist() == pytest.approx([length] * R)
