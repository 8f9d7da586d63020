import pytest
import torch

from bench.methods.base import Layer, LearningRates
from bench.methods.lora_sb import LoRASB
from bench.train.alignment import attainable_gradient, induced_gradient
from built_methods import built
from matrices import both_orientations, random

R = 4
RATES = LearningRates(peak=0.3, first=0.02, calibration=0.005)


def with_zeros(out, into):
    gradient = random(out, into)
    gradient[0, :5] = gradient[3, 7] = 0.0
    return gradient


def start(gradient, r=R, **settings):
    layer = Layer("layer", torch.zeros_like(gradient), r, 1.0, gradient, learning_rates=RATES)
    return built("lora_sb", **settings).factors(layer, torch.Generator())


@both_orientations
@pytest.mark.parametrize(
    ("settings", "eta"),
    [({}, 0.02), ({"eta_mode": "first_warmup_lr"}, 0.02), ({"eta_mode": "lr"}, 0.3), ({"eta_mode": "official"}, 0.005)],
)
def test_the_adapter_starts_as_best_rank_r_of_one_sign_step_at_the_chosen_rate(out, into, settings, eta):
    G = with_zeros(out, into)
    U, singular, Vh = torch.linalg.svd(-eta * G.sign(), full_matrices=False)
    torch.testing.assert_close(start(G, **settings).product(), U[:, :R] * singular[:R] @ Vh[:R])


@both_orientations
def test_b_and_a_are_orthonormal_and_r_is_diagonal_and_positive(out, into):
    factors, identity = start(with_zeros(out, into)), torch.eye(R, dtype=torch.float64)
    torch.testing.assert_close(factors.lora_B.T @ factors.lora_B, identity, rtol=0, atol=1e-5)
    torch.testing.assert_close(factors.lora_A @ factors.lora_A.T, identity, rtol=0, atol=1e-5)
    assert torch.equal(factors.lora_R, factors.lora_R.diagonal().diag())
    assert (factors.lora_R.diagonal() > 0).all()


@both_orientations
@pytest.mark.parametrize("r", [1, 4, 16])
def test_the_built_in_step_descends(out, into, r):
    G = with_zeros(out, into)
    assert (start(G, r=r).product() * G).sum() < 0


def test_zero_gradient_entries_stay_zero_in_the_target():
    G = with_zeros(24, 40)
    target = start(G, r=24).product()
    torch.testing.assert_close(target, -0.02 * G.sign())
    assert target[G == 0].abs().max() < 1e-12


def test_the_gradient_of_r_needs_no_correction_to_be_the_best_attainable():
    G = random(24, 40)
    factors, trains = start(G), LoRASB.trains
    torch.testing.assert_close(induced_gradient(G, factors, 1.0, trains), attainable_gradient(G, factors, trains))


def test_only_the_signs_of_the_gradient_matter():
    G = with_zeros(24, 40)
    assert torch.equal(start(G).product(), start(1e-3 * G**3).product())


@both_orientations
def test_the_official_variant_is_near_the_exact_one_and_rounded_to_bfloat16(out, into):
    G = with_zeros(out, into).float()
    exact, official = start(G, eta_mode="lr"), start(G, eta_mode="lr", variant="official")
    for part in (official.lora_A, official.lora_B, official.lora_R):
        assert torch.equal(part, part.to(torch.bfloat16).float())
    assert 0.002 < (official.product() - exact.product()).norm() / exact.product().norm() < 0.7
    assert (official.product() * G).sum() < 0
    identity = torch.eye(R)
    torch.testing.assert_close(official.lora_B.T @ official.lora_B, identity, rtol=0, atol=1e-2)
    torch.testing.assert_close(official.lora_A @ official.lora_A.T, identity, rtol=0, atol=1e-2)


def test_the_official_variant_counts_its_warm_up_in_calibration_batches_unless_told_otherwise():
    seen = Layer("layer", torch.zeros(24, 40), R, 1.0, random(24, 40), learning_rates=RATES)
    assert built("lora_sb", variant="official").eta(seen) == RATES.calibration
    assert built("lora_sb", variant="official", eta_mode="lr").eta(seen) == RATES.peak
    assert built("lora_sb").eta(seen) == RATES.first
