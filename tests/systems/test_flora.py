import pytest
import torch
from transformers.optimization import Adafactor

from bench.systems.base import Clock, Pair
from bench.systems.flora import down, projection, root_mean_square, up
from matrices import both_orientations, random
from systems_built import built_system, host


def generator(seed):
    return torch.Generator().manual_seed(seed)


def clock(step):
    return Clock(step, 90, 1e-3, seed=0)


@both_orientations
def test_a_projected_matrix_is_itself_on_average_with_the_variance_of_gaussian_projections(out, into):
    G, k, r, draws = random(out, into), 24, 8, 1500
    total, squares = torch.zeros_like(G), 0.0
    for seed in range(draws):
        P = projection(G.shape, r, generator(seed)).double()
        assert down(G, P).numel() == r * 40
        once = up(down(G, P), P, G.shape)
        total += once
        squares += once.square().sum().item()
    assert (total / draws - G).norm() < 3 * G.norm() * ((k + 1) / r / draws) ** 0.5
    assert squares / draws / G.square().sum().item() == pytest.approx(1 + (k + 1) / r, rel=0.05)


def test_a_momentum_is_itself_on_average_after_a_change_of_projection():
    G, r, draws = random(6, 10), 3, 5000
    total = torch.zeros_like(G)
    for seed in range(draws):
        old, new = (projection(G.shape, r, generator(2 * seed + i)).double() for i in (0, 1))
        total += up(down(up(down(G, old), old, G.shape), new), new, G.shape)
    assert (total / draws - G).norm() < 0.1 * G.norm()
    single = up(
        down(up(down(G, old), old, G.shape), old), old, G.shape
    )  # the released JAX code decodes with one that is gone
    assert (single - G).norm() > 0.5 * G.norm()


@both_orientations
def test_without_compression_and_momentum_it_is_adafactor(out, into):
    W = torch.nn.Parameter(0.3 * random(out, into, seed=1))
    optimizer = Adafactor([W], lr=1e-2, scale_parameter=True, relative_step=False, warmup_init=False)
    system, state = built_system("flora", compress="accumulation", r=25), {}
    for step in (1, 2, 3):
        G = 5 * random(out, into, seed=10 + step)
        before, W.grad = W.detach().clone(), G
        found = system.descent(Pair("layer", {"weight": before}, {"weight": G}, 1.0), state, clock(step))["weight"]
        optimizer.step()
        torch.testing.assert_close(before - 1e-2 * found, W.detach(), rtol=0, atol=1e-12)


@both_orientations
def test_the_momentum_is_decoded_mixed_moved_and_encoded_in_the_order_of_the_released_code(out, into):
    W, system, state = 0.3 * random(out, into, seed=1), built_system("flora", r=4, kappa=2), {}
    plain, plain_state = built_system("flora", compress="accumulation", r=25), {}
    P = [projection(W.shape, 4, clock(1).stream(f"flora/layer/{index}", W.device)).double() for index in range(3)]
    M = torch.zeros_like(down(W, P[0]))
    for step, (now, then) in enumerate([(0, 0), (0, 1), (1, 1), (1, 2)], 1):
        G = random(out, into, seed=10 + step)
        pair = Pair("layer", {"weight": W}, {"weight": G}, 1.0)
        found = system.descent(pair, state, clock(step))["weight"]
        u = plain._preconditioned(G, "layer", plain_state, step)
        decoded = up(M, P[now], W.shape)
        expected = 0.1 * u + 0.9 * decoded
        expected = expected / max(1.0, root_mean_square(expected).item()) * root_mean_square(W)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        M = 0.9 * (M if now == then else down(decoded, P[then])) + 0.1 * down(u, P[then])
    assert sum(tensor.numel() for tensor in state.values()) == 4 * 40 + 24 + 40


@both_orientations
def test_alignment_of_a_projected_gradient_is_that_of_one_draw(out, into):
    G = random(out, into)
    found = built_system("flora", compress="accumulation", r=4).induced(G, None, 1.0, frozenset({"weight"}))
    P = projection(G.shape, 4, generator(0)).double()
    torch.testing.assert_close(found, P.T @ P @ G if out < into else G @ P.T @ P)
    assert built_system("flora").induced(G, None, 1.0, frozenset({"weight"})) is None


def test_long_matrices_and_those_without_enough_rows_are_not_compressed():
    system = built_system("flora", r=8)
    shapes = [(8, 32), (8, 33), (7, 8), (33, 8)]
    assert [system.compresses(torch.Size(shape)) for shape in shapes] == [True, False, False, False]


def test_an_adapter_is_refused():
    with pytest.raises(ValueError, match=r"Flora does not combine with method=hu: .*; take method=full_ft, or system="):
        built_system("flora").check(host("hu"))
