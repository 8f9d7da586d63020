import pytest
import torch

from bench.init.calibrate import CalibrationRequest, calibrate
from bench.init.calibrate.dimension import two_nn
from bench.model.layers import target_layers
from built_methods import built
from matrices import layer_of, random
from models import random_batch, tiny_llama, tiny_t5

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
REQUEST = CalibrationRequest(frozenset({"block_dimensions"}))


def normal(d, count=2000, width=40):
    """Normal points of d dimensions, turned into a space of more."""
    generator = torch.Generator().manual_seed(d)
    turned = torch.linalg.qr(torch.randn(width, d, generator=generator, dtype=torch.float64))[0]
    return torch.randn(count, d, generator=generator, dtype=torch.float64) @ turned.T


@pytest.mark.parametrize("d", [1, 2, 3, 5, 8])
def test_the_dimension_of_normal_points_is_found_within_three_standard_errors(d):
    assert two_nn(normal(d)) == pytest.approx(d, rel=3 / 2000**0.5)


def test_the_dimension_changes_neither_with_scale_and_place_nor_with_points_that_come_twice():
    points = normal(3, 300)
    assert two_nn(30 * points + 5) == pytest.approx(two_nn(points), rel=1e-9)
    assert two_nn(torch.cat([points, points[:50] + 1e-13])) == pytest.approx(two_nn(points), rel=1e-9)


def test_too_few_points_that_differ_are_refused():
    points = normal(2, 2)
    with pytest.raises(ValueError, match=r"3 samples that differ, and there are 2: raise task\.calibration_samples"):
        two_nn(torch.cat([points, points]))


@pytest.mark.parametrize(
    ("before", "after", "r"),
    [(3.2, 5.7, 4), (5.7, 3.2, 1), (4.0, 4.4, 1), (2.4, 2.5, 2), (0.0, 0.0, 1), (1.0, 80.0, 9)],
)
def test_a_layer_gets_the_dimensions_that_its_block_gains_and_one_more(before, after, r):
    seen = layer_of(random(9, 14), 4, block_dimensions=torch.tensor([before, after]))
    assert built("gelora").ranks([seen]) == {"layers.3.q_proj": r}  # 9 is its smaller side


def batches(*seeds):
    found = [random_batch(6, 7 + seed, seed=seed) for seed in seeds]
    found[0]["attention_mask"][2, 4:] = 0
    found[0]["labels"][2, 4:] = -100
    return found


def test_dimensions_are_of_the_means_over_tokens_before_and_after_the_block_without_padding():
    model, given = tiny_llama(), batches(1, 2)
    found = calibrate(model, target_layers(model, PROJECTIONS), given, REQUEST).block_dimensions
    means = [[], []]
    for batch in given:
        states = model(batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)
        mask = batch["attention_mask"].double()[..., None]
        for side in (0, 1):  # before and after the first block
            hidden = states.hidden_states[side].detach().double()
            means[side].append((hidden * mask).sum(1) / mask.sum(1))
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"):
        expected = [two_nn(torch.cat(side)) for side in means]
        assert found[name].tolist() == pytest.approx(expected, rel=1e-4)
    last, first = found["model.layers.0.mlp.up_proj"][1], found["model.layers.1.mlp.up_proj"][0]
    assert last == first
    assert found["model.layers.1.mlp.up_proj"][1] != first


def test_an_encoder_decoder_has_blocks_of_both_sides_and_hooks_are_taken_away():
    model = tiny_t5()
    given = [{**batch, "labels": batch["labels"].clamp(min=1)} for batch in (random_batch(6, 8, seed=4),)]
    found = calibrate(model, target_layers(model, None), given, REQUEST).block_dimensions
    assert all((value > 0).all() for value in found.values())
    assert {name.split(".")[0] for name in found} == {"encoder", "decoder"}
    assert not any(module._forward_hooks for module in model.modules())


def test_a_sample_that_comes_again_in_another_batch_counts_once():
    model, (one, other) = tiny_llama(), batches(1, 2)
    layers = target_layers(model, PROJECTIONS)
    again = {name: torch.nn.functional.pad(tensor, (0, 3)) for name, tensor in one.items()}  # with more padding
    again["labels"][:, -3:] = -100
    once = calibrate(model, layers, [one, other], REQUEST).block_dimensions
    twice = calibrate(model, layers, [one, other, again], REQUEST).block_dimensions
    assert all(torch.allclose(twice[name], value, rtol=1e-4) for name, value in once.items())


def test_few_samples_are_warned_of():
    model = tiny_llama()
    with pytest.warns(
        UserWarning, match="of 6 calibration samples scatter by 41%; raise task.calibration_samples to 50"
    ):
        calibrate(model, target_layers(model, PROJECTIONS), batches(1), REQUEST)
