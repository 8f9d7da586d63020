import pytest
import torch

from built_methods import built
from matrices import both_orientations, covariance, layer_of, random

R, S = 4, 0.7


def start(W, C, r=R, **settings):
    return built("astra", **settings).factors(layer_of(W, r, S, output_covariance=C), torch.Generator())


def taken(mode, out):
    """First and last of the eigenvectors, by descending eigenvalue; the code counts k//2 to k//2 + r ascending."""
    first = {"ipm": 0, "kpm": out - R, "middle": out - out // 2 - R}[mode]
    return slice(first, first + R)


@both_orientations
@pytest.mark.parametrize("mode", ["ipm", "kpm", "middle"])
def test_b_spans_principal_directions_of_the_outputs_and_a_is_what_w_sends_there(out, into, mode):
    W, C = random(out, into), covariance(out)
    factors, vectors = start(W, C, mode=mode), torch.linalg.svd(C)[0][:, taken(mode, out)]
    torch.testing.assert_close(factors.lora_B @ factors.lora_B.T, vectors @ vectors.T)
    torch.testing.assert_close(factors.product(), vectors @ vectors.T @ W)
    torch.testing.assert_close(factors.lora_B.T @ factors.lora_B, torch.eye(R, dtype=torch.float64))


@both_orientations
def test_as_many_directions_as_outputs_take_over_the_whole_of_w(out, into):
    W, C = random(out, into)[:20], covariance(20)
    torch.testing.assert_close(start(W, C, r=20).product(), W)


def test_ipm_takes_the_directions_in_which_outputs_are_largest():
    W, C = random(24, 40), covariance(24)
    B = {mode: start(W, C, mode=mode).lora_B for mode in ("ipm", "middle", "kpm")}
    ipm, middle, kpm = ((B[mode].T @ C @ B[mode]).trace() for mode in ("ipm", "middle", "kpm"))
    assert ipm > middle > kpm
    torch.testing.assert_close(ipm, torch.linalg.eigvalsh(C)[-R:].sum())


def test_a_rank_without_r_directions_past_the_middle_is_refused():
    method = built("astra", mode="middle")
    method.check(layer_of(random(24, 40), r=12))
    with pytest.raises(ValueError, match=r"r = 13 directions from the middle of 24.*q_proj.*r of at most 12"):
        method.check(layer_of(random(24, 40), r=13))


def test_fewer_tokens_than_directions_are_warned_about_only_where_the_smallest_are_taken():
    W, Y = random(24, 40), random(10, 24, seed=4)
    with pytest.warns(UserWarning, match="output_covariance of layers.3.q_proj has rank 10 of 24"):
        start(W, Y.T @ Y, mode="kpm")
    start(W, Y.T @ Y)


def test_a_layer_that_no_sample_reaches_is_refused():
    with pytest.raises(ValueError, match=r"output_covariance of layers\.3\.q_proj is zero"):
        start(random(24, 40), torch.zeros(24, 24))
