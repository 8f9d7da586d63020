from dataclasses import replace

import pytest
import torch

from bench.init.calibrate.sketch import OVERSAMPLING, GradientSketch
from bench.methods.svd import exact_svd


def tokens(num, side, values, seed):
    """Vectors whose sizes along fixed directions fall as `values`."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(side, len(values), generator=torch.Generator().manual_seed(side)))[0]
    return torch.randn(num, len(values), generator=generator) * values @ directions.T


def batches(out, into, rank, decay=0.5):
    values = decay ** torch.arange(rank)
    return [(tokens(30, into, values, seed), tokens(30, out, values, seed + 50)) for seed in range(3)]


def sketched(pairs, k, seed=0):
    sketch = GradientSketch.begin(*pairs[0], k, torch.Generator().manual_seed(seed))
    for inputs, output_gradient in pairs[1:]:
        sketch.add(inputs, output_gradient)
    return sketch


def gradient(pairs):
    return sum(output_gradient.T @ inputs for inputs, output_gradient in pairs)


def sine(one, other):
    """Of the largest angle between the row spaces of two matrices with orthonormal rows."""
    return torch.linalg.matrix_norm(one - one @ other.T @ other, ord=2).item()


SHAPES = pytest.mark.parametrize(("out", "into"), [(60, 90), (90, 60)])


@SHAPES
def test_y_and_z_are_products_with_the_gradient_of_all_batches(out, into):
    pairs = batches(out, into, 40)
    sketch, G = sketched(pairs, 4), gradient(pairs)
    torch.testing.assert_close(sketch.Y, G @ sketch.Omega, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sketch.Z, sketch.Psi @ G, rtol=1e-4, atol=1e-4)
    assert sketch.Y.shape == (out, 4 + OVERSAMPLING)
    assert sketch.Z.shape == (36, into)


@SHAPES
def test_a_gradient_of_lower_rank_than_the_sketch_is_found_exactly(out, into):
    pairs = batches(out, into, 6, decay=0.9)
    found, expected = sketched(pairs, 6).svd(6, 6), exact_svd(gradient(pairs))
    torch.testing.assert_close(found.S, expected.S[:6], rtol=1e-4, atol=0)
    torch.testing.assert_close(found.U, expected.U[:, :6], rtol=0, atol=1e-3)
    torch.testing.assert_close(found.Vh, expected.Vh[:6], rtol=0, atol=1e-3)
    assert found.error < 1e-3


def test_vectors_are_orthonormal_and_the_largest_entry_of_each_left_one_is_positive():
    found = sketched(batches(60, 90, 50), 5).svd(5, 5)
    torch.testing.assert_close(found.U.T @ found.U, torch.eye(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.Vh @ found.Vh.T, torch.eye(5), rtol=0, atol=1e-5)
    assert (found.U.amax(dim=0) == found.U.abs().amax(dim=0)).all()


@pytest.mark.parametrize("blind", ["Omega", "Psi"])
def test_the_first_batch_turns_both_test_matrices_towards_the_gradient(blind):
    pairs, k = batches(120, 150, 100, decay=0.95), 10
    exact, own = exact_svd(gradient(pairs)).leading(k), sketched(pairs, k)
    drawn = torch.randn(getattr(own, blind).shape, generator=torch.Generator().manual_seed(1))
    other = replace(own, **{blind: drawn}, Y=own.Y.clone(), Z=own.Z.clone())
    other.restart(*pairs[0])
    for inputs, output_gradient in pairs[1:]:
        other.add(inputs, output_gradient)
    assert sine(exact.Vh, own.svd(k, k).Vh) < 0.3 * sine(exact.Vh, other.svd(k, k).Vh)


@pytest.mark.parametrize("decay", [0.7, 0.9, 0.97])
def test_the_error_that_is_estimated_is_not_far_below_the_true_one(decay):
    pairs, k = batches(120, 150, 100, decay), 6
    found, exact = sketched(pairs, k).svd(k, k), exact_svd(gradient(pairs)).leading(k)
    true = max(sine(exact.Vh, found.Vh), sine(exact.U.T, found.U.T))
    assert true < 2 * found.error + 1e-3


def test_equal_generators_give_equal_bits_and_the_global_stream_is_not_drawn_from():
    before = torch.get_rng_state()
    one, two = (sketched(batches(60, 90, 50), 5).svd(5, 5) for _ in range(2))
    assert torch.equal(one.U, two.U)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_gradient_that_vanishes_has_orthonormal_vectors_all_the_same():
    inputs = tokens(30, 90, 0.9 ** torch.arange(50), 0)
    found = sketched([(inputs, torch.zeros(30, 60))], 5).svd(5, 5)
    assert (found.S == 0).all()
    torch.testing.assert_close(found.U.T @ found.U, torch.eye(5), rtol=0, atol=1e-5)
