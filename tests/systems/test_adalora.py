"""AdaLoRA: its schedule, averages and cuts by hand and against PEFT's allocator, its penalty, its alignment."""

import pytest
import torch
from peft import AdaLoraConfig, get_peft_model
from torch import nn

from bench.methods.base import Factors, Layer, Rank
from bench.systems.adalora import budget, kept, smoothed
from bench.systems.base import Clock, Pair, distance_from_orthonormal
from bench.train.alignment import attainable_gradient, induced_gradient
from matrices import both_orientations, random
from systems_built import S, built_system, factors_of, host

TRAINS = frozenset({"lora_A", "lora_B", "lora_E"})


def test_the_budget_falls_as_a_cube_between_the_phases():
    found = [budget(step, most=8, least=4, first=3, last=15) for step in range(1, 21)]
    assert found[:9] == [8, 8, 8, 7, 6, 5, 5, 4, 4]
    assert found[14:] == [4] * 6


def test_averages_of_a_constant_sensitivity_have_their_closed_form():
    one, b = torch.full((3, 5), 2.0, dtype=torch.float64), 0.85
    state = torch.zeros_like(one), torch.zeros_like(one)
    for k in range(1, 8):
        state = smoothed(state, one, b, b)
        torch.testing.assert_close(state[0], one * (1 - b**k))
        torch.testing.assert_close(state[1], one * (1 - b) * k * b**k)


def test_the_least_important_of_all_layers_go_and_ties_with_them():
    scores = [torch.tensor([3.0, 1.0]), torch.tensor([2.0, 5.0, 4.0])]
    assert [one.tolist() for one in kept(scores, 3)] == [[True, False], [False, True, True]]
    assert [one.tolist() for one in kept(scores, 5)] == [[True, True], [True, True, True]]
    assert not torch.cat(kept([torch.zeros(2), torch.zeros(3)], 3)).any()


def test_the_penalty_is_zero_at_orthonormal_factors_and_has_no_gradient_along_rounding():
    rows = torch.linalg.qr(random(40, 4)).Q.T.clone().requires_grad_()
    distance = distance_from_orthonormal(rows)
    assert distance < 1e-14
    assert not torch.autograd.grad(distance, rows)[0].any()
    farther = (1.1 * rows).detach().requires_grad_()
    assert torch.autograd.grad(distance_from_orthonormal(farther), farther)[0].norm() > 1
    A, B, _ = factors_of(24, 40)
    pair = Pair("layer", {"lora_A": A, "lora_B": B, "lora_E": torch.ones(4)}, {}, S)
    eye = torch.eye(4, dtype=torch.float64)
    by_hand = 0.1 * ((A @ A.T - eye).norm() + (B.T @ B - eye).norm()) / 2
    torch.testing.assert_close(built_system("adalora").penalty([pair]), by_hand)
    assert built_system("adalora", orth_reg_weight=0).penalty([pair]) is None


def test_it_starts_as_loralib_does_with_its_own_rank_and_scaling():
    system = built_system("adalora", rank_r=8)
    rank = system.rank(Rank("r8", 8, 16.0))
    assert (rank.r, rank.lora_alpha / rank.r) == (12, pytest.approx(16 / (12 + 1e-5), rel=1e-12))
    layer = Layer("layer", torch.zeros(300, 500), 12, 1.0)
    found = system.start(layer, None, torch.Generator().manual_seed(0))
    assert found.lora_A.shape == (12, 500)
    assert found.lora_B.shape == (300, 12)
    assert found.lora_A.std() == pytest.approx(0.02, rel=0.05)
    assert found.lora_B.std() == pytest.approx(0.02, rel=0.05)
    assert not found.lora_E.any()


SHAPES = [(24, 40), (40, 24), (30, 24)]


def peft_model(total):
    model = nn.Sequential(*(nn.Linear(into, out, bias=False) for out, into in SHAPES)).double()
    config = AdaLoraConfig(
        init_r=4, target_r=2, tinit=3, tfinal=5, deltaT=2, total_step=total, target_modules=["0", "1", "2"]
    )
    wrapped = get_peft_model(model, config).double()
    return wrapped, [wrapped.base_model.model[i] for i in range(3)]


@pytest.mark.parametrize("through", [14, 20])
def test_pefts_allocator_keeps_the_same_triplets_given_the_same_tensors_and_steps(through):
    wrapped, layers = peft_model(total=20)
    allocator = wrapped.base_model.rankallocator
    system = built_system("adalora", target_r=2, init_r=4, initial=0.15, final=0.25, interval=2)
    state, ours = {}, []
    for number, layer in enumerate(layers):
        parts = {name: getattr(layer, name)["default"] for name in ("lora_A", "lora_B", "lora_E")}
        for place, parameter in enumerate(parts.values()):
            parameter.data = random(*parameter.shape, seed=100 + 10 * number + place)
        ours.append({name: p.detach().squeeze(-1).clone() for name, p in parts.items()})
    for step in range(1, through + 1):
        pairs = []
        for number, layer in enumerate(layers):
            gradients = {}
            for place, name in enumerate(ours[number]):
                theirs = getattr(layer, name)["default"]
                theirs.grad = random(*theirs.shape, seed=1000 * step + 10 * number + place)
                theirs.data += 0.1 * theirs.grad
                gradients[name] = theirs.grad.squeeze(-1)
                ours[number][name] += 0.1 * gradients[name]
            pairs.append(Pair(f"layer {number}", ours[number], gradients, S))
        if step != 15:  # PEFT forces a cut at the first step of its last phase, whatever the interval
            allocator.update_and_allocate(wrapped.base_model, step)
        system.after_step(pairs, state, Clock(step, 20, 1e-3, 0))
        for number, layer in enumerate(layers):
            theirs = layer.lora_E["default"].detach().squeeze(-1)
            torch.testing.assert_close(ours[number]["lora_E"], theirs, rtol=0, atol=1e-12, msg=f"step {step}")
    for number in range(3):
        for part in ("lora_A", "lora_B", "lora_E"):
            (theirs,) = (mean for name, mean in allocator.exp_avg_ipt.items() if f".{number}.{part}." in f".{name}")
            mean = state[f"layer {number}/{part}/mean"]
            torch.testing.assert_close(mean, theirs.reshape(mean.shape), rtol=1e-10, atol=1e-12)
    open_now = sum(int((tensors["lora_E"] != 0).sum()) for tensors in ours)
    assert open_now == (6 if through == 20 else budget(14, 12, 6, 3, 15))


@both_orientations
def test_the_induced_gradient_of_the_gated_form_is_what_one_small_step_moves_w_by(out, into):
    A, B, G = factors_of(out, into)
    E = random(4, seed=7)
    found = induced_gradient(G, Factors(A, B, lora_E=E), S, TRAINS)
    leaves = [tensor.clone().requires_grad_() for tensor in (A, B, E)]
    (G * S * (leaves[1] * leaves[2] @ leaves[0])).sum().backward()
    steps = tuple(leaf.grad for leaf in leaves)
    product = torch.func.jvp(lambda A, B, E: S * (B * E) @ A, (A, B, E), steps)[1]
    torch.testing.assert_close(found, product, rtol=1e-10, atol=1e-10)


@both_orientations
@pytest.mark.parametrize("zeros", [0, 2, 4])
def test_the_best_attainable_gradient_of_the_gated_form_is_the_least_squares_fit_over_all_directions(out, into, zeros):
    A, B, G = factors_of(out, into)
    E = random(4, seed=7)
    E[:zeros] = 0

    def directions(A, B, E):
        return S * (B * E) @ A

    jacobian = torch.cat(
        [one.reshape(out * into, -1) for one in torch.autograd.functional.jacobian(directions, (A, B, E))], dim=1
    )
    U, values, _ = torch.linalg.svd(jacobian, full_matrices=False)
    basis = U[:, values > 1e-10 * values[0]]
    assert basis.shape[1] == (4 if zeros == 4 else (4 - zeros) * (out + into - 4 + zeros) + zeros)
    expected = (basis @ (basis.T @ G.reshape(-1))).reshape(out, into)
    found = attainable_gradient(G, Factors(A, B, lora_E=E), TRAINS)
    assert (found - expected).norm() < 1e-9 * G.norm()


def test_more_triplets_than_a_layer_has_are_refused():
    layer = Layer("layer", torch.empty(24, 40, device="meta"), 25, 1.0)
    with pytest.raises(
        ValueError, match=r"starts with 25 triplets, more than the smaller side 24 of layer; take system"
    ):
        built_system("adalora", init_r=25).check_layer(layer)


@pytest.mark.parametrize(
    ("settings", "where", "told"),
    [
        ({}, {"method": "lora_ga"}, r"AdaLoRA does not combine with method=lora_ga: .*; take method=hu, or"),
        ({"init_r": 4}, {}, r"system\.target_r=4 must be below system\.init_r=4.* take system\.init_r=6"),
        (
            {"initial": 0.5, "final": 0.5},
            {},
            r"initial=0\.5 and system\.final=0\.5 leave no step of train\.max_steps=90",
        ),
    ],
)
def test_what_it_cannot_be_combined_with_is_named_with_the_remedy(settings, where, told):
    with pytest.raises(ValueError, match=told):
        built_system("adalora", **settings).check(host(**where))
