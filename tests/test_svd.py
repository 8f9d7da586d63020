from dataclasses import replace

import pytest
import torch

from bench.methods.svd import SVD, SVDSettings, exact_svd, leading_svd
from matrices import random

RANDOMIZED = SVDSettings("randomized", 8, 1e-3, 0.5)
EXACT = SVDSettings("exact", 8, 1e-3, 0.5)
K = 8

# Of the three ways that leading_svd has, by shape; each in both orientations.
DIRECT, THROUGH_GRAM, SMALL = (210, 180), (700, 170), (60, 40)
each_shape = pytest.mark.parametrize(
    "shape", [side[::turn] for side in (DIRECT, THROUGH_GRAM, SMALL) for turn in (1, -1)], ids=str
)
each_large_shape = pytest.mark.parametrize(
    "shape", [side[::turn] for side in (DIRECT, THROUGH_GRAM) for turn in (1, -1)], ids=str
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def solve(matrix, k=K, settings=RANDOMIZED, seed=0):
    return leading_svd(matrix, k, settings, seeded(seed))


def with_spectrum(shape, values, seed=0):
    """A random matrix with these singular values, float32."""
    U, V = (torch.linalg.qr(random(side, len(values), seed=seed + side))[0] for side in shape)
    return (U * values @ V.T).float()


def powers(base, count=150):
    return base ** torch.arange(count, dtype=torch.float64)


SPECTRA = {
    "geometric": powers(0.95),
    "harmonic": 1 / torch.arange(1, 151, dtype=torch.float64),
    "spikes and noise": torch.cat([torch.linspace(9, 4, 12), torch.linspace(1, 0.5, 138)]).double(),
}
each_spectrum = pytest.mark.parametrize("values", SPECTRA.values(), ids=SPECTRA.keys())


def sine(found, exact):
    """Of the largest principal angle between the spans of orthonormal columns."""
    found, exact = found.double(), exact.double()
    return torch.linalg.matrix_norm(found - exact @ (exact.T @ found), 2).item()


def error_of(found, matrix):
    """The truth that `found.error` estimates."""
    exact, k = exact_svd(matrix.double()), len(found.S)
    spans = [(sine(found.U[:, :h], exact.U[:, :h]), sine(found.Vh[:h].T, exact.Vh[:h].T)) for h in {k, max(1, k // 2)}]
    return max(max(pair) for pair in spans)


def assert_orthonormal(found):
    identity = torch.eye(len(found.S), dtype=found.S.dtype)
    torch.testing.assert_close(found.U.T @ found.U, identity, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.Vh @ found.Vh.T, identity, rtol=0, atol=1e-5)


@each_shape
@each_spectrum
def test_the_randomised_solver_agrees_with_the_exact_one_to_the_tolerance(shape, values):
    matrix = with_spectrum(shape, values[: min(shape)])
    found, exact = solve(matrix), solve(matrix, settings=EXACT)
    assert error_of(found, matrix) < RANDOMIZED.tolerance
    torch.testing.assert_close(found.S, exact.S, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.U, exact.U, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.Vh, exact.Vh, rtol=0, atol=1e-3)


@each_shape
@pytest.mark.parametrize("settings", [RANDOMIZED, EXACT], ids=["randomized", "exact"])
def test_vectors_are_orthonormal_values_descend_and_the_largest_left_entry_is_positive(shape, settings):
    found = solve(random(*shape).float(), settings=settings)
    assert_orthonormal(found)
    assert (found.S.diff() <= 0).all()
    assert (found.U.gather(0, found.U.abs().argmax(dim=0, keepdim=True)) > 0).all()
    assert (found.U.shape, found.S.shape, found.Vh.shape) == ((shape[0], K), (K,), (K, shape[1]))


def test_the_exact_svd_is_that_of_torch_up_to_signs():
    matrix = random(40, 24).float()
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    found = exact_svd(matrix)
    assert found.error == 0
    torch.testing.assert_close(found.S, S, rtol=0, atol=0)
    torch.testing.assert_close(found.U.abs(), U.abs(), rtol=0, atol=0)
    torch.testing.assert_close(found.Vh.abs(), Vh.abs(), rtol=0, atol=0)
    torch.testing.assert_close(found.U * found.S @ found.Vh, matrix)


@each_large_shape
def test_equal_generators_give_equal_bits_and_the_global_stream_is_left_alone(shape):
    matrix = with_spectrum(shape, SPECTRA["geometric"])
    before = torch.get_rng_state()
    one, two, other = solve(matrix), solve(matrix), solve(matrix, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(getattr(one, part), getattr(two, part)) for part in ("U", "S", "Vh"))
    assert not torch.equal(one.U, other.U)


@pytest.mark.parametrize(("shape", "k"), [(SMALL, K), (DIRECT, 100), (DIRECT, 180)])
def test_of_a_small_matrix_the_svd_is_exact_and_nothing_is_drawn(shape, k):
    matrix, generator = random(*shape).float(), seeded()
    found = leading_svd(matrix, k, RANDOMIZED, generator)
    assert found.error == 0
    assert torch.equal(found.U, exact_svd(matrix).U[:, :k])
    assert torch.equal(generator.get_state(), seeded().get_state())


@each_shape
@pytest.mark.parametrize("rank", [0, 3, 20, 40])
def test_a_matrix_of_low_rank_has_orthonormal_vectors_all_the_same(shape, rank):
    values = powers(0.9, rank)
    matrix = with_spectrum(shape, values) if rank else torch.zeros(shape)
    found = solve(matrix)
    assert_orthonormal(found)
    expected = torch.cat([values, torch.zeros(K)])[:K].float()
    torch.testing.assert_close(found.S, expected, rtol=1e-5, atol=1e-5)


@each_large_shape
def test_entries_that_are_zero_but_for_a_few_rows_are_no_trouble(shape):
    matrix = torch.zeros(shape)
    matrix[:11] = random(11, shape[1]).float()
    found = solve(matrix)
    assert_orthonormal(found)
    assert error_of(found, matrix) < 1e-3


@each_shape
@pytest.mark.parametrize("settings", [RANDOMIZED, EXACT], ids=["randomized", "exact"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_matrix_that_is_not_finite_is_refused(shape, settings, value):
    matrix = random(*shape).float()
    matrix[1, 2] = value
    with pytest.raises(ValueError, match="not finite"):
        solve(matrix, settings=settings)


def test_entries_whose_sum_overflows_are_finite():
    matrix = 3e38 * torch.ones(3, 5)
    assert not matrix.sum().isfinite()
    with pytest.raises(ValueError, match="no 4 singular triplets"):
        solve(matrix, k=4)
    assert solve(1e30 * with_spectrum(DIRECT, powers(0.9))).S[0].item() == pytest.approx(1e30, rel=1e-4)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@each_large_shape
def test_the_unit_of_the_matrix_is_of_no_account(shape, scale):
    matrix = with_spectrum(shape, SPECTRA["geometric"])
    small, found = solve(scale * matrix), solve(matrix)
    torch.testing.assert_close(small.S / scale, found.S, rtol=1e-5, atol=0)
    torch.testing.assert_close(small.U, found.U, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("dtype", "kept"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)]
)
@each_shape
def test_float64_is_kept_and_anything_else_becomes_float32(shape, dtype, kept):
    matrix = random(*shape).to(dtype)
    found = solve(matrix)
    assert found.U.dtype == found.S.dtype == found.Vh.dtype == kept
    assert_orthonormal(found)


def test_leading_takes_the_first_and_refuses_more_than_there_are():
    svd = SVD(torch.eye(5, 3), torch.tensor([3.0, 2.0, 1.0]), torch.eye(3, 4), error=0.1)
    two = svd.leading(2)
    assert (two.U.shape, two.S.tolist(), two.Vh.shape, two.error) == ((5, 2), [3.0, 2.0], (2, 4), 0.1)
    with pytest.raises(ValueError, match="4 singular triplets asked for, but there are 3"):
        svd.leading(4)


def test_width_is_the_larger_of_rank_and_need_and_no_more_than_a_side():
    assert RANDOMIZED.width((50, 30), needed=4) == 8
    assert RANDOMIZED.width((50, 30), needed=16) == 16
    assert RANDOMIZED.width((50, 30), needed=64) == 30


@pytest.mark.parametrize("wrong", [{"solver": "lanczos"}, {"rank": 0}, {"tolerance": 0.0}, {"oversampling": 4}])
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SVDSettings(**{"solver": "exact", "rank": 8, "tolerance": 1e-3, "sketch_bound": 0.5} | wrong)


@each_large_shape
def test_the_estimate_of_the_error_is_honest_where_the_spectrum_decays_slowly(shape):
    """Read before the tolerance is reached, where the error is above rounding."""
    matrix = with_spectrum(shape, powers(0.97))
    found = solve(matrix, settings=replace(RANDOMIZED, rank=K, tolerance=0.3))
    assert error_of(found, matrix) > 1e-4
    assert 0.2 < found.error / error_of(found, matrix) < 5


@each_large_shape
def test_the_estimate_of_the_error_is_honest_on_a_flat_spectrum(shape):
    matrix = with_spectrum(shape, torch.linspace(1, 0.95, min(shape), dtype=torch.float64))
    found = solve(matrix)
    assert found.error > 0.2
    assert error_of(found, matrix) > 0.2
    assert_orthonormal(found)


@each_large_shape
def test_a_tighter_tolerance_gives_a_smaller_error_on_a_slow_spectrum(shape):
    matrix = with_spectrum(shape, powers(0.98))
    errors = [
        error_of(solve(matrix, 4, replace(RANDOMIZED, rank=4, tolerance=tolerance)), matrix)
        for tolerance in (0.5, 1e-2, 1e-4)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
