import math
import random

import numpy as np
import pytest
import torch

from bench.init.calibrate import CalibrationRequest, calibrate
from bench.methods.base import Layer, LearningRates, Rank
from bench.model import adapter
from bench.model.layers import target_layers
from bench.train import alignment
from bench.train.probe import AlignmentProbe, Measure
from built_methods import built

PROJECTIONS = ("q_proj", "down_proj")
RANK = Rank("r2", 2, 4)


def doubled(batch):
    """A batch whose second half repeats the first: both gradient estimates are the same."""
    return {key: torch.cat([tensor, tensor]) for key, tensor in batch.items()}


def probed(model, batch, method, both=None):
    layers = target_layers(model, PROJECTIONS)
    norms = {name: layer.weight.norm().item() for name, layer in layers.items()}
    statistics = calibrate(model, layers, [batch], CalibrationRequest(frozenset({"gradient"})))
    wrapped, adapted = adapter.add(model, method, RANK, layers)
    factors = {}
    for layer in adapted if method.has_adapter else ():
        weight, gradient = layer.weight.detach().clone(), statistics.gradient[layer.name]
        seen = Layer(layer.name, weight, 2, layer.scaling, gradient, learning_rates=LearningRates(1, 0.01, 0.01))
        factors[layer.name] = method.factors(seen, torch.Generator().manual_seed(0))
        adapter.fill(layer, factors[layer.name])
    probe = AlignmentProbe(Measure(5), adapted, factors, norms, both or doubled(batch))
    return wrapped, probe, statistics.gradient


def values(rows, measure):
    return {row.layer: row.value for row in rows if row.measure == measure}


def each(*names):
    return pytest.mark.parametrize("method", [built(name) for name in names], ids=names)


each_adapter = each("hu", "reversed", "lora_ga", "lora_xs", "lora_sb")


def test_lora_gas_cosine_on_its_own_batch_is_the_root_of_the_energy_in_the_first_2r_directions(tiny_model, batch):
    wrapped, probe, gradients = probed(tiny_model(), batch(3, 6), built("lora_ga"))
    cosines = values(probe.measure(wrapped, 0), "cosine")
    for name, gradient in gradients.items():
        energy = torch.linalg.svdvals(gradient).square()
        assert cosines[name] == pytest.approx(math.sqrt(energy[:4].sum() / energy.sum()), rel=1e-4)


def test_full_fine_tuning_follows_the_gradient_itself(tiny_model, batch):
    wrapped, probe, _ = probed(tiny_model(), batch(3, 6), built("full_ft"))
    rows = probe.measure(wrapped, 0)
    for measure in ("cosine", "efficiency", "captured_energy"):
        assert list(values(rows, measure).values()) == pytest.approx([1.0] * 5)
    assert {row.value for row in rows if row.measure == "drift"} == {0.0}


def test_the_noise_ceiling_is_one_for_equal_halves_and_less_for_others(tiny_model, batch):
    wrapped, probe, _ = probed(tiny_model(), batch(3, 6), built("hu"))
    assert values(probe.measure(wrapped, 0), "noise_ceiling")["all"] == pytest.approx(1.0)
    wrapped, probe, _ = probed(tiny_model(), batch(3, 6), built("hu"), both=batch(6, 6, seed=9))
    assert values(probe.measure(wrapped, 0), "noise_ceiling")["all"] < 0.99


@each("hu", "lora_ga", "lora_sb")
def test_drift_and_stable_rank_are_those_of_the_dense_change_of_w(tiny_model, batch, method):
    pretrained = {name: layer.weight.clone() for name, layer in target_layers(tiny_model(), PROJECTIONS).items()}
    wrapped, probe, _ = probed(tiny_model(), batch(3, 6), method)
    with torch.no_grad():
        for layer in probe.layers:
            moved = 0.1 * torch.randn(layer.weight.shape[0], 2, generator=torch.manual_seed(1))
            layer.parameters()["lora_B"].add_(moved)
    rows = probe.measure(wrapped, 5)
    for layer in probe.layers:
        change = layer.weight.detach() + layer.scaling * layer.factors().product() - pretrained[layer.name].detach()
        ratio = change.norm() / pretrained[layer.name].norm()
        assert values(rows, "drift")[layer.name] == pytest.approx(ratio.item(), rel=1e-4)
        stable = (change.norm() / torch.linalg.matrix_norm(change, 2)) ** 2
        assert values(rows, "stable_rank")[layer.name] == pytest.approx(stable.item(), rel=1e-3)


def test_a_probe_is_due_at_its_interval_and_never_when_switched_off(tiny_model, batch):
    _, probe, _ = probed(tiny_model(), batch(3, 6), built("hu"))
    assert [step for step in range(11) if probe.due(step)] == [0, 5, 10]
    assert probe.due(12, last=True)
    probe.settings = Measure(0)
    assert not any(probe.due(step, last=step == 10) for step in range(11))


def state(model):
    return {
        name: (p.detach().clone(), None if p.grad is None else p.grad.clone()) for name, p in model.named_parameters()
    }


def global_streams():
    _, keys, position, *_ = np.random.get_state()
    return random.getstate(), keys.tolist(), position, torch.get_rng_state().tolist()


@each("hu", "reversed", "lora_ga", "full_ft")
def test_at_step_0_a_method_that_keeps_the_function_has_not_drifted_and_has_no_stable_rank(tiny_model, batch, method):
    wrapped, probe, _ = probed(tiny_model(), batch(3, 6), method)
    rows = probe.measure(wrapped, 0)
    assert list(values(rows, "drift").values()) == pytest.approx([0.0] * 4, abs=1e-6)
    assert set(values(rows, "stable_rank").values()) == {None}


@each_adapter
def test_efficiency_is_the_cosine_over_the_best_that_is_attainable(tiny_model, batch, method):
    wrapped, probe, _ = probed(tiny_model(), batch(3, 6), method)
    rows = probe.measure(wrapped, 0)
    cosines, best, energy = (values(rows, name) for name in ("cosine", "attainable_cosine", "captured_energy"))
    for layer, efficiency in values(rows, "efficiency").items():
        assert 0 < efficiency <= 1 + 1e-5
        assert efficiency == pytest.approx(cosines[layer] / best[layer])
        assert energy[layer] == pytest.approx(best[layer] ** 2)


@each_adapter
def test_every_row_over_all_layers_is_that_of_the_concatenated_vectors(tiny_model, batch, method):
    wrapped, probe, _ = probed(tiny_model(), batch(3, 6), method, both=batch(6, 6, seed=9))
    found = {row.measure: row.value for row in probe.measure(wrapped, 0) if row.layer == "all"}
    halves = [{key: tensor[half] for key, tensor in probe.batch.items()} for half in (slice(3), slice(3, 6))]
    modules = {layer.name: layer.module for layer in probe.layers}
    asked = CalibrationRequest(frozenset({"gradient"}))
    one, two = (calibrate(wrapped, modules, [half], asked).gradient for half in halves)

    def together(of):
        return torch.cat([of(layer).flatten() for layer in probe.layers])

    G, other = together(lambda x: one[x.name]), together(lambda x: two[x.name])
    induced = together(lambda x: alignment.induced_gradient(one[x.name], x.factors(), x.scaling, x.trains))
    attainable = together(lambda x: alignment.attainable_gradient(one[x.name], x.factors(), x.trains))
    expected = {
        "cosine": alignment.cosine(induced, G),
        "attainable_cosine": alignment.cosine(attainable, G),
        "captured_energy": (attainable.square().sum() / G.square().sum()).item(),
        "noise_ceiling": alignment.cosine(G, other),
    }
    for measure, value in expected.items():
        assert found[measure] == pytest.approx(value, rel=1e-4)


def test_measuring_moves_no_parameter_no_gradient_and_no_mode(tiny_model, batch):
    wrapped, probe, _ = probed(tiny_model(), batch(3, 6), built("lora_ga"))
    wrapped.train()
    wrapped(**batch(3, 6, seed=4)).loss.backward()
    before = state(wrapped)
    probe.measure(wrapped, 0)
    assert wrapped.training
    for name, (parameter, gradient) in state(wrapped).items():
        assert torch.equal(parameter, before[name][0])
        assert (gradient is None) == (before[name][1] is None)
        assert gradient is None or torch.equal(gradient, before[name][1])


def test_measuring_a_model_that_draws_random_numbers_leaves_the_global_streams(tiny_model, batch):
    wrapped, probe, _ = probed(tiny_model(), batch(3, 6), built("hu"))
    drawn = []
    wrapped.register_forward_pre_hook(lambda *_: drawn.append((random.random(), np.random.rand(), torch.rand(1))))
    before = global_streams()
    probe.measure(wrapped, 0)
    assert drawn
    assert global_streams() == before


def test_rows_are_kept_from_one_probe_to_the_next_with_their_step(tiny_model, batch):
    wrapped, probe, _ = probed(tiny_model(), batch(3, 6), built("hu"))
    rows = probe.measure(wrapped, 0) + probe.measure(wrapped, 5)
    assert probe.rows == rows
    assert {row.step for row in rows} == {0, 5}


def test_the_gradients_norm_is_that_of_the_first_halfs_own_mean_loss(tiny_model, batch):
    both = batch(6, 6, seed=9)
    first = {key: tensor[:3] for key, tensor in both.items()}
    wrapped, probe, gradients = probed(tiny_model(), first, built("hu"), both=both)
    norms = values(probe.measure(wrapped, 0), "gradient_norm")
    for name, gradient in gradients.items():
        assert norms[name] == pytest.approx(gradient.norm().item(), rel=1e-5)


def test_a_diverged_adapter_is_not_measured(tiny_model, batch):
    wrapped, probe, _ = probed(tiny_model(), batch(3, 6), built("hu"))
    with torch.no_grad():
        probe.layers[0].parameters()["lora_B"].fill_(float("nan"))
    assert probe.measure(wrapped, 5) == []


def test_a_layer_that_was_given_no_rank_counts_as_one_that_does_not_move(tiny_model, batch):
    model, given = tiny_model(), batch(3, 6)
    layers = target_layers(model, PROJECTIONS)
    gradients = calibrate(model, layers, [given], CalibrationRequest(frozenset({"gradient"}))).gradient
    norms = {name: layer.weight.norm().item() for name, layer in layers.items()}
    left_out, *others = layers
    wrapped, adapted = adapter.add(model, built("hu"), RANK, layers, ranks={left_out: 0} | dict.fromkeys(others, 2))
    initial = {}
    for layer in adapted[1:]:
        seen = Layer(layer.name, layer.weight.detach(), 2, layer.scaling)
        initial[layer.name] = built("hu").factors(seen, torch.Generator().manual_seed(0))
        adapter.fill(layer, initial[layer.name])
    probe = AlignmentProbe(Measure(5), adapted, initial, norms, doubled(given))
    rows = probe.measure(wrapped, 0)
    assert values(rows, "cosine")[left_out] is None
    assert values(rows, "captured_energy")[left_out] == 0
    assert values(rows, "drift")[left_out] == 0
    within_reach = sum(values(rows, "captured_energy")[n] * gradients[n].square().sum().item() for n in others)
    total = sum(gradient.square().sum().item() for gradient in gradients.values())
    assert values(rows, "captured_energy")["all"] == pytest.approx(within_reach / total, rel=1e-4)


def test_packed_examples_have_the_alignment_of_padded_ones(tiny_model, batch, monkeypatch):
    given = doubled(batch(3, 6)) | {"attention_mask": torch.ones(6, 6, dtype=torch.long)}
    for row, length in enumerate([3, 6, 4, 5, 3, 6]):
        given["attention_mask"][row, length:], given["labels"][row, length:] = 0, -100
    packed, cuts = measured_parts(tiny_model, batch, given, monkeypatch, packs=True)
    padded, _ = measured_parts(tiny_model, batch, given, monkeypatch, packs=False)
    assert cuts
    assert packed.keys() == padded.keys()
    for key, value in padded.items():
        assert packed[key] == (value if value is None else pytest.approx(value, rel=1e-3, abs=1e-5)), key


def measured_parts(tiny_model, batch, given, monkeypatch, packs):
    """The measures of a step, and the rows that held several examples."""
    from bench.model import pieces

    packed = []
    monkeypatch.setattr(pieces, "understands_packing", lambda _model: packs)
    wrapped, probe, _ = probed(tiny_model(), batch(3, 6), built("lora_ga"), given)
    hook = wrapped.register_forward_pre_hook(
        lambda *called: packed.extend({"position_ids"} & set(called[2])), with_kwargs=True
    )
    rows = probe.measure(wrapped, 0)
    hook.remove()
    return {(row.layer, row.measure): row.value for row in rows}, packed


def test_feature_norms_are_means_over_tokens_that_are_not_padding(tiny_model, batch, monkeypatch):
    monkeypatch.setattr("bench.model.pieces.understands_packing", lambda _model: False)
    wrapped, probe, _ = probed(tiny_model(), batch(3, 6), built("reversed"))
    probe.batch["attention_mask"] = torch.ones_like(probe.batch["input_ids"])
    probe.batch["attention_mask"][0, 4:] = 0
    layer, masks, tokens = probe.layers[0], [], []
    with torch.no_grad():
        layer.parameters()["lora_A"].normal_(generator=torch.Generator().manual_seed(1))
    hooks = [
        wrapped.register_forward_pre_hook(lambda *given: masks.append(given[2]["attention_mask"]), with_kwargs=True),
        layer.module.register_forward_pre_hook(lambda _module, args: tokens.append(args[0][masks[-1].bool()].detach())),
    ]
    rows = probe.measure(wrapped, 0)
    for hook in hooks:
        hook.remove()
    x = torch.cat(tokens)
    assert len(x) == probe.batch["attention_mask"].sum()
    Z_A = x @ layer.factors().lora_A.T
    wanted = {"X_norm": x, "Z_A_norm": Z_A, "Z_B_norm": layer.scaling * Z_A @ layer.factors().lora_B.T}
    for measure, Z in wanted.items():
        found = values(rows, measure)
        assert found[layer.name] == pytest.approx(Z.norm(dim=1).mean().item(), rel=1e-5)
        assert found["all"] == pytest.approx(np.mean([value for name, value in found.items() if name != "all"]))


def test_what_has_no_factors_has_no_feature_norms(tiny_model, batch):
    wrapped, probe, _ = probed(tiny_model(), batch(3, 6), built("full_ft"))
    assert not values(probe.measure(wrapped, 0), "Z_A_norm")
