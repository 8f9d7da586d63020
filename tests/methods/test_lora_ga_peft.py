import math

import pytest
import torch

from built_methods import built
from matrices import both_orientations, layer_of, random

R = 4


def start(G, r=R):
    return built("lora_ga_peft").factors(layer_of(torch.zeros_like(G), r, gradient=G), torch.Generator())


@both_orientations
def test_a_is_orthonormal_and_b_carries_the_second_block_of_singular_values(out, into):
    G = random(out, into)
    factors, values = start(G), torch.linalg.svdvals(G)[R : 2 * R]
    torch.testing.assert_close(factors.lora_A @ factors.lora_A.T, torch.eye(R, dtype=torch.float64))
    expected = torch.diag(math.sqrt(out) / 16 * values.square())
    torch.testing.assert_close(factors.lora_B.T @ factors.lora_B, expected)
    assert (factors.lora_B.T @ G @ factors.lora_A.T).abs().max() < 1e-10  # disjoint blocks


def test_unlike_the_papers_its_b_scales_with_the_gradient():
    G = random(24, 40)
    torch.testing.assert_close(start(1e-3 * G).lora_B, 1e-3 * start(G).lora_B)


def test_a_rank_beyond_half_the_smaller_side_is_refused_with_layer_and_limit():
    with pytest.raises(ValueError, match=r"2r = 26 .*layers\.3\.q_proj has a side of 24; take r of at most 12"):
        built("lora_ga_peft").check(layer_of(random(24, 40), 13))
