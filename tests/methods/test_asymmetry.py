import math

import pytest
import torch

from built_methods import built
from matrices import both_orientations, layer_of, random

R = 4
IDENTITY = torch.eye(R)


def frozen(kind, W, how, seed=0, r=R):
    """The frozen factor with r as its first axis."""
    factors = built(kind, frozen=how).factors(layer_of(W, r), torch.Generator().manual_seed(seed))
    trained, other = (factors.lora_B, factors.lora_A) if kind == "asymmetry_b" else (factors.lora_A, factors.lora_B.T)
    assert not trained.any()
    return other


each_kind = pytest.mark.parametrize("kind", ["asymmetry_a", "asymmetry_b"])


@both_orientations
@each_kind
def test_the_random_factor_has_orthonormal_vectors_of_length_one(kind, out, into):
    drawn = frozen(kind, random(out, into), "random_orthonormal")
    torch.testing.assert_close(drawn @ drawn.T, IDENTITY)


@each_kind
def test_random_directions_are_uniform_no_sign_is_preferred(kind):
    drawn = torch.stack([frozen(kind, random(9, 9 + 2), "random_orthonormal", seed=s)[0] for s in range(600)])
    assert drawn.mean(dim=0).abs().max() < 0.06
    assert drawn.square().mean(dim=0).std() < 0.02


@both_orientations
def test_singular_vectors_are_those_of_the_pretrained_w(out, into):
    W = random(out, into)
    values = torch.linalg.svdvals(W)[:R]
    for kind, matrix in (("asymmetry_b", W.T), ("asymmetry_a", W)):
        chosen = frozen(kind, W, "singular_vectors")
        torch.testing.assert_close(chosen @ chosen.T, IDENTITY.double())
        torch.testing.assert_close((chosen @ matrix).norm(dim=1), values)


@pytest.mark.parametrize(("kind", "fan_in"), [("asymmetry_b", 400), ("asymmetry_a", 64)])
def test_kaiming_is_bounded_by_the_root_of_the_factors_fan_in(kind, fan_in):
    drawn = frozen(kind, random(300, 400), "kaiming", r=64)
    assert 0.99 / math.sqrt(fan_in) < drawn.abs().max() <= 1 / math.sqrt(fan_in)
    assert drawn.std().item() == pytest.approx(1 / math.sqrt(3 * fan_in), rel=0.02)
