import pytest
import torch

from bench.train.alignment import induced_gradient
from built_methods import built
from matrices import both_orientations, layer_of, random

R = 4


def start(out, into, **settings):
    return built("nzlora", **settings).factors(layer_of(random(out, into), R), torch.Generator().manual_seed(0))


@both_orientations
def test_both_bounds_use_the_width_of_the_input(out, into):
    factors = start(out, into, scale_B=0.5)
    for drawn, bound in ((factors.lora_A, into**-0.5), (factors.lora_B, 0.5 * into**-0.5)):
        assert 0.9 * bound < drawn.abs().max() <= bound
        assert drawn.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)
        assert abs(drawn.mean()) < 0.25 * bound


@both_orientations
def test_at_step_0_both_factors_move_w(out, into):
    factors, G = start(out, into), random(out, into, seed=1).float()
    moved = {name: induced_gradient(G, factors, 0.7, frozenset({name})) for name in ("lora_A", "lora_B")}
    assert all(change.norm() > 0 for change in moved.values())
    assert built("nzlora").keeps_function
    assert not factors.vanishes()
