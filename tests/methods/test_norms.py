"""Norms and inner products of more entries than one float32 sum adds up exactly."""

import pytest
import torch

from bench.methods.norms import PIECE, inner, norm
from bench.train.curvature import largest_eigenvalue

MANY = 8 * PIECE + 3


def test_the_norm_of_many_entries_is_that_of_float64():
    x = torch.randn(MANY, generator=torch.Generator().manual_seed(0))
    exact = torch.linalg.vector_norm(x, dtype=torch.float64).item()
    assert norm(x).item() == pytest.approx(exact, rel=2e-5)
    assert inner(x, x).item() == pytest.approx(exact**2, rel=2e-5)


def test_a_matrix_of_few_entries_has_the_bits_of_a_single_sum():
    X = torch.randn(70, 30, generator=torch.Generator().manual_seed(0))
    assert norm(X).item() == X.norm().item()
    assert norm(X.T).item() == pytest.approx(X.norm().item(), rel=1e-6)
    assert inner(X[:, 0], X[:, 1]).item() == torch.dot(X[:, 0], X[:, 1]).item()


def test_the_largest_eigenvalue_of_a_matrix_with_many_rows_is_as_exact_as_that_of_few():
    """M = 1000 u uᵀ + I, whose largest eigenvalue is 1001; a single sum finds 1001.5."""
    u = torch.randn(MANY, generator=torch.Generator().manual_seed(1))
    u /= norm(u)
    start = torch.randn(MANY, generator=torch.Generator().manual_seed(0))
    found = largest_eigenvalue(lambda v: 1000 * inner(u, v) * u + v, start, num_products=10)
    assert found.value == pytest.approx(1001.0, rel=1e-4)
