import torch

from built_methods import built
from matrices import both_orientations, layer_of, random

R, SMALLER = 4, 24


@both_orientations
def test_b_spans_the_left_directions_in_which_w_is_smallest_and_a_is_zero(out, into):
    W = random(out, into)
    factors = built("mica").factors(layer_of(W, R), torch.Generator())
    assert not factors.lora_A.any()
    torch.testing.assert_close(factors.lora_B.T @ factors.lora_B, torch.eye(R, dtype=torch.float64))
    seen = torch.linalg.svdvals(factors.lora_B.T @ W)
    torch.testing.assert_close(seen, torch.linalg.svdvals(W)[SMALLER - R :])
