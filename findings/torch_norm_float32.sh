#!/usr/bin/env bash
# The Frobenius norm of a large float32 tensor on a CPU, which clip_grad_norm_ clips by and relative changes divide by.
# Guess: as exact as square().sum().sqrt(), whose partial sums are added pairwise: within 1e-6 of float64 for any size.
# Seen (torch 2.13.0, one thread): Tensor.norm, linalg.vector_norm, linalg.matrix_norm and get_total_norm are too small,
#   by 4e-4 at 1e7 entries, 5e-3 for a 4096 x 14336 matrix and 1.4e-2 at 1.3e8, and torch.dot(x, x) by a third as much;
#   square().sum().sqrt() is within 1e-7. Two unit vectors made by x / x.norm() then have a product of 1.03.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import math

import torch

torch.set_num_threads(1)
print(f"torch {torch.__version__.partition('+')[0]}")
for shape in ((2500, 4000), (4096, 14336), (49152, 2736)):
    X = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    exact = math.sqrt(sum(row.double().square().sum().item() for row in X.split(64)))
    found = {
        "norm": X.norm(),
        "vector_norm": torch.linalg.vector_norm(X),
        "matrix_norm": torch.linalg.matrix_norm(X),
        "get_total_norm": torch.nn.utils.get_total_norm([X]),
        "square().sum().sqrt()": X.square().sum().sqrt(),
    }
    errors = {name: value.item() / exact - 1 for name, value in found.items()}
    print(f"{shape[0]} x {shape[1]}:", ", ".join(f"{name} {error:+.1e}" for name, error in errors.items()))
    pairwise = errors.pop("square().sum().sqrt()")
    assert abs(pairwise) < 1e-6, "the behaviour has changed"
    assert all(error < -1e-4 for error in errors.values()), "the behaviour has changed"
PYTHON
