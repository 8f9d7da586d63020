import torch

from built_methods import built
from matrices import both_orientations, layer_of, random

R = 4


def start(W, scaling=0.7):
    return built("olora").factors(layer_of(W, R, scaling), torch.Generator())


@both_orientations
def test_b_is_orthonormal_and_a_upper_triangular(out, into):
    factors = start(random(out, into))
    torch.testing.assert_close(factors.lora_B.T @ factors.lora_B, torch.eye(R, dtype=torch.float64))
    assert torch.equal(factors.lora_A, factors.lora_A.triu())


@both_orientations
def test_the_product_has_the_first_r_columns_of_w_and_projects_the_others_on_them(out, into):
    W = random(out, into)
    projector = W[:, :R] @ torch.linalg.pinv(W[:, :R])
    torch.testing.assert_close(start(W).product(), projector @ W)


def test_the_factors_do_not_know_the_scaling():
    W = random(24, 40)
    assert torch.equal(start(W, 0.7).product(), start(W, 2.0).product())
