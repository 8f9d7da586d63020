"""What tests of matrices share. No layer is square, so that a transposition cannot pass."""

import pytest
import torch

from bench.methods.base import FACTORS, Layer

both_orientations = pytest.mark.parametrize(("out", "into"), [(24, 40), (40, 24)])


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(width, seed=7):
    """Of 3 * width vectors whose entries differ in size."""
    vectors = random(3 * width, width, seed=seed) * torch.linspace(1, 3, width, dtype=torch.float64)
    return vectors.T @ vectors / len(vectors)


def layer_of(weight, r=4, scaling=0.7, **statistics):
    return Layer("layers.3.q_proj", weight, r, scaling, **statistics)


def best_approximation(matrix, rank):
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return U[:, :rank] * S[:rank] @ Vh[:rank]


def with_signs_of(reference, vectors):
    """Rows of `vectors`, each with the sign that makes its product with the same row of `reference` positive."""
    signs = (reference * vectors).sum(dim=1, keepdim=True).sign()
    return torch.where(signs == 0, 1.0, signs) * vectors


def moved_by_one_step(factors, gradient, scaling, trains):
    """-dW/dη of one gradient step on the trained factors, by autograd through W + s diag(o) B R diag(E) A."""
    parts = {name: getattr(factors, name) for name in FACTORS}
    leaves = {name: part.double().clone().requires_grad_() for name, part in parts.items() if part is not None}
    steps = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}

    def effective(**moved):
        chain = [moved[name] for name in ("lora_B", "lora_R", "lora_E", "lora_A") if name in moved]
        product = torch.linalg.multi_dot([part.diag() if part.dim() == 1 else part for part in chain])
        return scaling * (moved["lora_o"][:, None] * product if "lora_o" in moved else product)

    (gradient * effective(**leaves)).sum().backward()
    for name in trains:
        steps[name] = leaves[name].grad
    start = tuple(leaf.detach() for leaf in leaves.values())
    along = tuple(steps[name] for name in leaves)
    return torch.func.jvp(lambda *values: effective(**dict(zip(leaves, values, strict=True))), start, along)[1]
