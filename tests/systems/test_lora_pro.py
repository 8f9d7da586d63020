import pytest
import torch

from bench.methods.base import Factors
from bench.systems.base import Clock
from bench.systems.lora_pro import closest
from bench.train.alignment import attainable_gradient
from matrices import best_approximation, both_orientations, random
from systems_built import S, built_system, factors_of, moved, pair_of

BOTH = frozenset({"lora_A", "lora_B"})


def mapped(A, B, G):
    return closest(A, B, S * B.T @ G, S * G @ A.T, S)


def dense_least_squares(A, B, G):
    """The dB and dA of smallest norm that minimise ‖s (dB A + B dA) - G‖, over all their entries together."""
    (out, r), into = B.shape, A.shape[1]
    of_B = torch.einsum("op,ik->oipk", torch.eye(out, dtype=G.dtype), A.T).reshape(out * into, out * r)
    of_A = torch.einsum("ok,ij->oikj", B, torch.eye(into, dtype=G.dtype)).reshape(out * into, r * into)
    found = torch.linalg.pinv(S * torch.cat([of_B, of_A], dim=1)) @ G.reshape(-1)
    return found[: out * r].reshape(out, r), found[out * r :].reshape(r, into)


@both_orientations
def test_it_moves_w_as_dense_least_squares_over_both_factors_does(out, into):
    A, B, G = factors_of(out, into)
    dB, dA = dense_least_squares(A, B, G)
    found = moved(mapped(A, B, G), A, B)
    assert (found - S * (dB @ A + B @ dA)).norm() < 1e-10 * G.norm()
    assert (found * G).sum() == pytest.approx(found.square().sum().item(), rel=1e-12)


@both_orientations
def test_of_all_pairs_that_move_w_so_it_is_the_smallest(out, into):
    A, B, G = factors_of(out, into)
    dB, dA = dense_least_squares(A, B, G)
    torch.testing.assert_close(mapped(A, B, G), {"lora_A": dA, "lora_B": dB}, rtol=0, atol=1e-10)


@both_orientations
def test_with_one_factor_zero_it_is_the_projection_on_the_other(out, into):
    A, B, G = factors_of(out, into)
    rows = torch.linalg.pinv(A) @ A
    columns = B @ torch.linalg.pinv(B)
    at_b = mapped(A, torch.zeros_like(B), G)
    assert (S * at_b["lora_B"] @ A - G @ rows).norm() < 1e-10 * G.norm()
    assert at_b["lora_A"].abs().max() == 0
    at_a = mapped(torch.zeros_like(A), B, G)
    assert (S * B @ at_a["lora_A"] - columns @ G).norm() < 1e-10 * G.norm()
    assert at_a["lora_B"].abs().max() == 0


@both_orientations
def test_mapping_what_it_moves_w_by_changes_nothing(out, into):
    A, B, G = factors_of(out, into)
    once = moved(mapped(A, B, G), A, B)
    assert (moved(mapped(A, B, once), A, B) - once).norm() < 1e-12 * G.norm()


@both_orientations
@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0])
def test_factors_of_any_size_and_of_lower_rank_are_projected_on_alike(out, into, size):
    A, B, G = factors_of(out, into)
    A[3], B[:, 3] = A[0], B[:, 0]  # of rank 3, as half of an orthogonal start's
    expected = attainable_gradient(G, Factors(A, B), BOTH)
    assert (moved(mapped(A, size * B, G), A, size * B) - expected).norm() < 1e-9 * G.norm()
    single = [tensor.float() for tensor in (A, size * B, G)]
    assert (moved(mapped(*single), *single[:2]) - expected).norm() < 1e-4 * G.norm()


def test_a_column_far_smaller_than_the_others_still_counts_in_float32():
    A, B, G = factors_of(24, 40)
    B = B * torch.tensor([1, 1, 1, 1e-3], dtype=torch.float64)
    single = [tensor.float() for tensor in (A, B, G)]
    expected = attainable_gradient(G, Factors(A, B), BOTH)
    assert (moved(mapped(*single), *single[:2]) - expected).norm() < 1e-3 * G.norm()


def test_from_the_start_of_lora_ga_the_first_step_is_the_best_of_rank_2r():
    G = random(24, 40, seed=3)
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    A, B = 3 * Vh[:4], 0.2 * U[:, 4:8]
    torch.testing.assert_close(moved(mapped(A, B, G), A, B), best_approximation(G, 8), rtol=0, atol=1e-12)


@both_orientations
def test_alignment_is_the_best_attainable(out, into):
    A, B, G = factors_of(out, into)
    system = built_system("lora_pro")
    induced = system.induced(G, Factors(A, B), S, BOTH)
    torch.testing.assert_close(induced, attainable_gradient(G, Factors(A, B), BOTH), rtol=0, atol=1e-10)


def clock(step):
    return Clock(step, 90, 1e-3, seed=0)


@both_orientations
def test_the_first_full_step_projects_the_sign_like_direction_of_adam(out, into):
    A, B, G = factors_of(out, into)
    system, pair, state = built_system("lora_pro"), pair_of(A, B, G), {}
    given = type(pair)(pair.name, pair.tensors, system.gradients(pair), pair.scaling)
    step = moved(system.descent(given, state, clock(1)), A, B)
    g = attainable_gradient(G, Factors(A, B), BOTH)
    expected = attainable_gradient(g / (g.abs() + 1e-8), Factors(A, B), BOTH)
    assert (step - expected).norm() < 1e-9 * expected.norm()
    assert {name: tuple(t.shape) for name, t in state.items()} == {
        "layer/exp_avg": (out, into), "layer/exp_avg_sq": (out, into),
    }  # fmt: skip


def test_the_full_steps_moments_are_adams_over_the_induced_gradients():
    A, B, _ = factors_of(24, 40)
    system, state = built_system("lora_pro"), {}
    weight = torch.zeros(24, 40, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([weight], lr=1.0)
    for step in (1, 2, 3):
        pair = pair_of(A, B, random(24, 40, seed=10 + step))
        given = type(pair)(pair.name, pair.tensors, system.gradients(pair), pair.scaling)
        found = moved(system.descent(given, state, clock(step)), A, B)
        weight.grad, before = moved(given.gradients, A, B), weight.detach().clone()
        adam.step()
        u = before - weight.detach()
        torch.testing.assert_close(found, attainable_gradient(u, Factors(A, B), BOTH), rtol=0, atol=1e-10)


def test_efficient_mode_leaves_the_step_to_adamw():
    assert built_system("lora_pro", mode="efficient").descent(pair_of(*factors_of(24, 40)), {}, clock(1)) is None
