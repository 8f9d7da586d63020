"""SoRA, KaSA and Flat-LoRA: thresholds, truncation, penalties and noise, by definition and against PEFT."""

from types import SimpleNamespace

import pytest
import torch
from peft import KasaConfig, LoraConfig, get_peft_model
from torch import nn
from transformers import TrainerState

from bench.methods.base import Factors, Layer, Rank
from bench.systems.base import Clock, Pair
from bench.systems.sora import official_threshold, soft_threshold
from bench.train.alignment import attainable_gradient, induced_gradient
from bench.train.systems import SystemHooks
from built_methods import built
from matrices import best_approximation, both_orientations, layer_of, random
from models import random_batch, tiny_llama
from starts import start
from systems_built import S, built_system, factors_of, host

TRAINS = frozenset({"lora_A", "lora_B", "lora_E"})


def clock(step, max_steps=10, learning_rate=2e-3):
    return Clock(step, max_steps, learning_rate, seed=3)


def test_the_proximal_step_minimises_its_definition():
    grid = torch.linspace(-4, 4, 80_001, dtype=torch.float64)
    for v in (-2.0, -0.31, -0.2, 0.0, 0.1, 0.3, 0.45, 3.0):
        best = grid[(0.5 * (grid - v) ** 2 + 0.3 * grid.abs()).argmin()]
        found = soft_threshold(torch.tensor([v], dtype=torch.float64), 0.3)
        assert found.item() == pytest.approx(best.item(), abs=1e-4)


def test_the_released_code_differs_between_one_and_two_thresholds_only():
    g = torch.tensor([-2.5, -1.5, -0.5, 0.0, 0.9, 1.1, 1.9, 2.0, 3.0], dtype=torch.float64)
    between = (g.abs() > 1) & (g.abs() < 2)
    assert official_threshold(g, 1.0).tolist() == [-1.5, 0, 0, 0, 0, 0, 0, 1.0, 2.0]
    assert torch.equal(official_threshold(g, 1.0) != soft_threshold(g, 1.0), between)
    assert official_threshold(torch.tensor([1.0, -1.0]), 1.0).tolist() == [1.0, -1.0]  # not beyond it: they stay


def sora_pair(g):
    A, B, _ = factors_of(24, 40)
    return Pair("layer", {"lora_A": A, "lora_B": B, "lora_E": g}, {}, S)


def test_sora_thresholds_by_the_rate_or_as_released_by_a_constant():
    g = torch.tensor([1e-3, -2.0, 5e-4, 0.5], dtype=torch.float64)
    system = built_system("sora")
    pair = sora_pair(g.clone())
    system.after_step([pair], {}, clock(1))
    assert pair.tensors["lora_E"].tolist() == pytest.approx([1e-3 - 7.5e-4, -2 + 7.5e-4, 0, 0.5 - 7.5e-4])
    assert system.penalty([pair]) is None
    official, pair = built_system("sora", variant="official"), sora_pair(g.clone())
    assert official.penalty([pair, sora_pair(g)]).item() == pytest.approx(10 * g.abs().mean().item())
    official.after_step([pair], {}, clock(1))
    assert pair.tensors["lora_E"].tolist() == pytest.approx([7e-4, -2 + 3e-4, 0, 0.5 - 3e-4])


def test_soras_gates_start_normal_between_the_methods_own_factors():
    drawn = Factors(random(4000, 40, seed=1), torch.zeros(24, 4000, dtype=torch.float64))
    begun = built_system("sora").start(
        Layer("layer", random(24, 40), 4000, 1.0), drawn, torch.Generator().manual_seed(0)
    )
    assert begun.lora_A is drawn.lora_A
    assert begun.lora_B is drawn.lora_B
    assert begun.lora_E.mean() == pytest.approx(0, abs=0.05)
    assert begun.lora_E.std() == pytest.approx(1, abs=0.05)


@both_orientations
def test_while_b_is_zero_sora_moves_w_by_b_alone_over_its_gated_rows(out, into):
    A, B, G = factors_of(out, into)
    g = random(4, seed=7)
    found = induced_gradient(G, Factors(A, torch.zeros_like(B), lora_E=g), S, TRAINS)
    torch.testing.assert_close(found, S**2 * G @ A.T @ (g**2).diag() @ A)
    rows = torch.linalg.pinv(A) @ A
    best = attainable_gradient(G, Factors(A, torch.zeros_like(B), lora_E=g), TRAINS)
    torch.testing.assert_close(best, G @ rows)


@both_orientations
def test_kasa_takes_the_smallest_components_out_and_trains_from_a_normal_diagonal(out, into):
    W, system = random(out, into), built_system("kasa")
    drawn = Factors(random(4, into, seed=1), torch.zeros(out, 4, dtype=torch.float64))
    gone = system.taken_out(layer_of(W))
    torch.testing.assert_close(W - 0.7 * gone.product(), best_approximation(W, 20))
    begun = system.start(layer_of(W), drawn, torch.Generator().manual_seed(0))
    assert begun.lora_A is drawn.lora_A
    assert begun.lora_E.shape == (4,)
    assert (begun.lora_E != 0).all()
    many = system.start(Layer("layer", W, 4000, 1.0), drawn, torch.Generator().manual_seed(0)).lora_E
    assert many.std() == pytest.approx(1, abs=0.05)


@both_orientations
def test_pefts_kasa_has_the_same_base_weight_and_the_same_penalty(out, into):
    model = nn.Sequential(nn.Linear(into, out, bias=False))
    W = model[0].weight.detach().clone()
    config = LoraConfig(r=4, lora_alpha=2.8, target_modules=["0"], kasa_config=KasaConfig())
    wrapped = get_peft_model(model, config)
    layer = wrapped.base_model.model[0]
    system = built_system("kasa")
    gone = system.taken_out(layer_of(W.double()))
    theirs = layer.get_base_layer().weight.detach().double()
    torch.testing.assert_close(W.double() - 0.7 * gone.product(), theirs, rtol=0, atol=1e-5)
    A, B, _ = factors_of(out, into)
    layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data = A.float(), B.float()
    d = layer.lora_diag["default"].detach().double()
    pair = Pair("layer", {"lora_A": A, "lora_B": B, "lora_E": d}, {}, S)
    assert system.penalty([pair]).item() == pytest.approx(wrapped.base_model._get_kasa_loss().item(), rel=1e-4)


def test_kasas_penalty_is_by_hand_and_a_mean_over_layers():
    A, B, _ = factors_of(24, 40)
    d, eye = random(4, seed=7), torch.eye(4, dtype=torch.float64)
    one = Pair("a", {"lora_A": A, "lora_B": B, "lora_E": d}, {}, S)
    other = Pair("b", {"lora_A": A, "lora_B": torch.zeros_like(B), "lora_E": torch.zeros_like(d)}, {}, S)
    of_A, of_B = (A @ A.T - eye).norm(), (B.T @ B - eye).norm()
    by_hand = (1e-4 * (d**2).sum() + 1e-3 * (of_A + of_B) + 1e-3 * (of_A + 2)) / 2
    torch.testing.assert_close(built_system("kasa").penalty([one, other]), by_hand)
    # B = 0 is a stationary point of its own term.
    B = torch.zeros_like(B).requires_grad_()
    zero = Pair("c", {"lora_A": A, "lora_B": B, "lora_E": d}, {}, S)
    assert not torch.autograd.grad(built_system("kasa").penalty([zero]), B)[0].any()


def test_a_rank_that_leaves_kasa_nothing_is_refused():
    with pytest.raises(
        ValueError, match=r"drops r = 24 of .* of layers\.3\.q_proj, which has 24; take a rank\.r of at"
    ):
        built_system("kasa").check_layer(layer_of(random(24, 40), r=24))


def test_flat_loras_noise_rises_from_zero_as_published():
    sizes = [built_system("flat_lora").relative_size(step, 10) for step in range(1, 7)]
    assert sizes == pytest.approx([0, 0.00122, 0.00477, 0.01031, 0.01727, 0.025], abs=5e-6)
    assert built_system("flat_lora").noise(random(24, 40), "layer", clock(1)) is None


def test_flat_loras_noise_has_the_size_of_each_row():
    W = random(400, 300) * torch.linspace(0.1, 10, 400, dtype=torch.float64)[:, None]
    system = built_system("flat_lora")
    noise = system.noise(W, "layer", clock(6))
    assert (noise.square().sum() / W.square().sum()).item() == pytest.approx(0.025**2, rel=0.02)
    of_rows = noise.norm(dim=1) / W.norm(dim=1)
    assert of_rows.min() > 0.8 * 0.025
    assert of_rows.max() < 1.2 * 0.025
    assert torch.equal(noise, system.noise(W, "layer", clock(6)))
    assert not torch.equal(noise, system.noise(W, "another", clock(6)))
    assert not torch.equal(noise.sign(), system.noise(W, "layer", clock(7)).sign())


def test_flat_lora_leaves_a_bfloat16_base_as_it_was_to_the_bit_after_a_hundred_steps():
    begun = start(tiny_llama().bfloat16(), built("hu"), Rank("r2", 2, 4), ("q_proj", "down_proj"), [random_batch(2, 5)])
    hooks = SystemHooks(built_system("flat_lora"), begun.layers, 0, begun.factors)
    before, optimizer = [layer.weight.clone() for layer in begun.layers], SimpleNamespace(param_groups=[{"lr": 1e-3}])
    for step in range(100):
        hooks.on_step_begin(None, TrainerState(global_step=step, max_steps=100), None, optimizer=optimizer)
        noisy = [layer.weight.clone() for layer in begun.layers]
        hooks.restore_weights()
    assert not any(torch.equal(one, weight) for one, weight in zip(noisy, before, strict=True))
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(begun.layers, before, strict=True))


@pytest.mark.parametrize(
    ("system", "method", "told"),
    [
        ("sora", "lora_ga", r"SoRA does not combine with method=lora_ga: .*; take method=hu or eva, or system=none"),
        ("kasa", "pissa", r"KaSA does not combine with method=pissa: .*; take method=hu, or system=none"),
        ("flat_lora", "full_ft", r"Flat-LoRA needs a frozen weight .* method=full_ft has no adapter"),
        (
            "lora_pro",
            "lora_sb",
            r"LoRA-Pro needs a method that trains lora_A and lora_B, and method=lora_sb trains lora_R",
        ),
        ("riemannian", "mica", r"Riemannian needs a method .*, and method=mica trains lora_A; take another"),
        ("lora_fa", "reversed", r"LoRA-FA trains lora_B over .*, and method=reversed starts with lora_A = 0; take"),
        ("lora_fa", "mica", r"LoRA-FA trains lora_B over .*, and method=mica trains lora_A; take another"),
        ("lora_fa", "moslora", r"LoRA-FA .*, and method=moslora trains lora_A, lora_B, lora_R; take another"),
    ],
)
def test_a_method_that_a_system_cannot_carry_is_named_with_the_remedy(system, method, told):
    with pytest.raises(ValueError, match=told):
        built_system(system).check(host(method))
