"""What each scheme promises at step 0, on rectangular layers: one identity that only it fulfils, and more."""

import math

import pytest
import torch

from bench.alignment import induced_gradient
from bench.methods.base import Layer, LearningRates, Rank, scaling_value, signed_svd
from bench.methods.hu import Hu
from bench.methods.lora_ga import LoRAGA
from bench.methods.lora_sb import LoRASB
from bench.methods.lora_xs import LoRAXS
from bench.methods.reversed import Reversed

OUT, IN, R = 24, 40, 4
RATES = LearningRates(peak=0.3, first=0.02, calibration=0.005)


def a_layer(out=OUT, into=IN, r=R, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(out, into, generator=generator, dtype=dtype)
    gradient = torch.randn(out, into, generator=generator, dtype=dtype)
    gradient[0, :5] = 0.0
    return Layer("layer", weight, r, 1.0, gradient, None, RATES)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def truncated(matrix, rank):
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return U[:, :rank] * S[:rank] @ Vh[:rank]


def step_0_gradients(factors, gradient, scaling=0.7):
    """Gradients of A and B of the loss whose gradient in W is `gradient`."""
    A, B = (factor.to(gradient.dtype).requires_grad_() for factor in (factors.lora_A, factors.lora_B))
    (gradient * (scaling * B @ A)).sum().backward()
    return A.grad, B.grad


@pytest.mark.parametrize("method", [Hu(), Reversed(), LoRAGA(), LoRAXS(), LoRASB()], ids=lambda m: m.label)
@pytest.mark.parametrize(("out", "into"), [(24, 40), (40, 24)])
def test_factors_have_pefts_shapes(method, out, into):
    factors = method.factors(a_layer(out, into, dtype=torch.float32), seeded())
    assert factors.lora_A.shape == (R, into)
    assert factors.lora_B.shape == (out, R)
    assert (factors.lora_R is not None) == ("lora_R" in method.trains)
    assert factors.product().shape == (out, into)


@pytest.mark.parametrize("method", [Hu(), Reversed(), LoRAXS()], ids=lambda m: m.label)
def test_a_drawn_factor_follows_its_generator(method):
    def flat(seed):
        f = method.factors(a_layer(), seeded(seed))
        return torch.cat([part.flatten().double() for part in (f.lora_A, f.lora_B, f.lora_R) if part is not None])

    assert torch.equal(flat(0), flat(0))
    assert not torch.equal(flat(0), flat(1))


@pytest.mark.parametrize("method", [LoRAGA(), LoRASB()], ids=lambda m: m.label)
def test_a_factor_computed_from_the_gradient_draws_nothing(method):
    generator = seeded()
    before = generator.get_state()
    method.factors(a_layer(), generator)
    assert torch.equal(generator.get_state(), before)


def test_hu_draws_a_uniformly_within_one_over_root_in_and_leaves_b_zero():
    factors = Hu().factors(a_layer(out=10, into=400, r=64), seeded())
    assert factors.lora_A.abs().max() <= 1 / math.sqrt(400)
    assert factors.lora_A.std() == pytest.approx(1 / math.sqrt(3 * 400), rel=0.02)
    assert not factors.lora_B.any()


def test_reversed_draws_b_uniformly_within_one_over_root_r_and_leaves_a_zero():
    factors = Reversed().factors(a_layer(out=400, into=10, r=64), seeded())
    assert factors.lora_B.abs().max() <= 1 / math.sqrt(64)
    assert factors.lora_B.std() == pytest.approx(1 / math.sqrt(3 * 64), rel=0.02)
    assert not factors.lora_A.any()


def test_under_hu_only_b_has_a_gradient_at_step_0():
    layer = a_layer()
    factors = Hu().factors(layer, seeded())
    grad_A, grad_B = step_0_gradients(factors, layer.gradient)
    assert not grad_A.any()
    torch.testing.assert_close(grad_B, 0.7 * layer.gradient @ factors.lora_A.double().T)


def test_under_reversed_only_a_has_a_gradient_at_step_0():
    layer = a_layer()
    factors = Reversed().factors(layer, seeded())
    grad_A, grad_B = step_0_gradients(factors, layer.gradient)
    assert not grad_B.any()
    torch.testing.assert_close(grad_A, 0.7 * factors.lora_B.double().T @ layer.gradient)


@pytest.mark.parametrize(("out", "into"), [(24, 40), (40, 24)])
@pytest.mark.parametrize("gamma", [16.0, 64.0])
def test_lora_gas_first_step_is_the_best_rank_2r_approximation_of_the_gradient(out, into, gamma):
    layer = a_layer(out, into)
    method = LoRAGA(gamma=gamma)
    factors = method.factors(layer, seeded())
    s = scaling_value(method.scaling, Rank("r4", R, 2 * R))
    induced = induced_gradient(layer.gradient, factors, s, method.trains)
    expected = s**2 * math.sqrt(out) / gamma * truncated(layer.gradient, 2 * R)
    assert (induced - expected).norm() / expected.norm() < 1e-5


def test_lora_ga_takes_a_from_the_first_block_and_b_from_the_second():
    layer = a_layer()
    factors = LoRAGA().factors(layer, seeded())
    U, _, Vh = torch.linalg.svd(layer.gradient, full_matrices=False)
    overlap_A = (factors.lora_A @ Vh.T).norm(dim=0)
    overlap_B = (U.T @ factors.lora_B).norm(dim=1)
    norm = OUT**0.25 / 16**0.5
    assert overlap_A[:R].tolist() == pytest.approx([norm] * R)
    assert overlap_B[R : 2 * R].tolist() == pytest.approx([norm] * R)
    assert overlap_A[R:].max() < 1e-10
    assert overlap_B[:R].max() < 1e-10


def test_lora_ga_does_not_see_the_size_of_the_gradient():
    layer = a_layer()
    larger = Layer("layer", layer.weight, R, 1.0, 1e3 * layer.gradient, None, RATES)
    one, two = (LoRAGA().factors(x, seeded()).product() for x in (layer, larger))
    torch.testing.assert_close(one, two)


def test_lora_ga_refuses_a_rank_without_a_second_block():
    with pytest.raises(ValueError, match=r"2r = 26 singular vectors, but layer has a side of 24.*at most 12"):
        LoRAGA().factors(a_layer(r=13), seeded())


@pytest.mark.parametrize(("out", "into"), [(24, 40), (40, 24)])
def test_lora_xs_holds_the_best_rank_r_approximation_of_w_with_its_singular_values_in_a(out, into):
    layer = a_layer(out, into)
    factors = LoRAXS().factors(layer, seeded())
    torch.testing.assert_close(factors.lora_B @ factors.lora_A, truncated(layer.weight, R))
    torch.testing.assert_close(factors.lora_B.T @ factors.lora_B, torch.eye(R, dtype=torch.float64))
    S = torch.linalg.svdvals(layer.weight)[:R]
    torch.testing.assert_close(factors.lora_A @ factors.lora_A.T, torch.diag(S**2))


def test_lora_xs_starts_r_at_noise_of_1e_minus_5():
    factors = LoRAXS().factors(a_layer(out=80, into=90, r=64), seeded())
    assert factors.lora_R.std().item() == pytest.approx(1e-5, rel=0.05)


@pytest.mark.parametrize(("out", "into"), [(24, 40), (40, 24)])
@pytest.mark.parametrize(("mode", "eta"), [("first_warmup_lr", 0.02), ("lr", 0.3), ("official", 0.005)])
def test_lora_sb_builds_in_the_best_rank_r_approximation_of_the_first_sign_step(out, into, mode, eta):
    layer = a_layer(out, into)
    factors = LoRASB(eta_mode=mode).factors(layer, seeded())
    expected = truncated(-eta * layer.gradient.sign(), R)
    torch.testing.assert_close(factors.product(), expected, rtol=1e-5, atol=1e-8)


def test_lora_sbs_factors_are_orthonormal_and_its_r_diagonal_and_positive():
    factors = LoRASB().factors(a_layer(), seeded())
    identity = torch.eye(R, dtype=torch.float64)
    torch.testing.assert_close(factors.lora_B.T @ factors.lora_B, identity, rtol=0, atol=1e-5)
    torch.testing.assert_close(factors.lora_A @ factors.lora_A.T, identity, rtol=0, atol=1e-5)
    assert torch.equal(factors.lora_R, torch.diag(factors.lora_R.diagonal()))
    assert (factors.lora_R.diagonal() > 0).all()


def test_lora_sbs_first_step_descends():
    layer = a_layer()
    assert (LoRASB().factors(layer, seeded()).product() * layer.gradient).sum() < 0


@pytest.mark.parametrize(
    ("method", "expected"),
    [(Hu(), 2.0), (Reversed(), 2.0), (LoRAGA(), 16 / math.sqrt(8)), (LoRAXS(), 1.0), (LoRASB(), 1.0)],
    ids=lambda value: getattr(value, "label", None),
)
def test_each_method_scales_as_its_paper_does_at_r_8_alpha_16(method, expected):
    assert scaling_value(method.scaling, Rank("r8", 8, 16)) == pytest.approx(expected)


def test_signs_of_singular_vectors_are_canonical():
    matrix = a_layer().gradient
    U, S, Vh = signed_svd(matrix)
    torch.testing.assert_close(U * S @ Vh, matrix)
    largest = U.gather(0, U.abs().argmax(dim=0, keepdim=True))
    assert (largest > 0).all()
    negated, _, opposite = signed_svd(-matrix)
    torch.testing.assert_close(negated, U)
    torch.testing.assert_close(opposite, -Vh)
