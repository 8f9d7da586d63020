import math

import pytest
import torch

from bench import adapter
from bench.calibrate import calibrate
from bench.measure import AlignmentProbe, Measure
from bench.methods.base import Layer, LearningRates, Rank
from bench.methods.full_ft import FullFT
from bench.methods.hu import Hu
from bench.methods.lora_ga import LoRAGA
from bench.methods.lora_sb import LoRASB

PROJECTIONS = ("q_proj", "down_proj")
RANK = Rank("r2", 2, 4)


def doubled(batch):
    """A batch whose second half repeats the first: both gradient estimates are the same."""
    return {key: torch.cat([tensor, tensor]) for key, tensor in batch.items()}


def probed(model, batch, method, both=None):
    layers = adapter.target_layers(model, PROJECTIONS)
    norms = {name: layer.weight.norm().item() for name, layer in layers.items()}
    statistics = calibrate(model, layers, [batch], frozenset({"gradient"}))
    wrapped, adapted = adapter.add(model, method, RANK, layers)
    factors = {}
    for layer in adapted if hasattr(method, "factors") else ():
        gradient = statistics.gradient[layer.name]
        seen = Layer(
            layer.name, layer.weight.detach().clone(), 2, layer.scaling, gradient, None, LearningRates(1, 0.01, 0.01)
        )
        factors[layer.name] = method.factors(seen, torch.Generator().manual_seed(0))
        adapter.fill(layer, factors[layer.name])
    probe = AlignmentProbe(Measure(5), adapted, factors, norms, both or doubled(batch))
    return wrapped, probe, statistics.gradient


def values(rows, measure):
    return {row.layer: row.value for row in rows if row.measure == measure}


def test_lora_gas_cosine_on_its_own_batch_is_the_root_of_the_energy_in_the_first_2r_directions(tiny_model, batch):
    wrapped, probe, gradients = probed(tiny_model(), batch(3, 6), LoRAGA())
    cosines = values(probe.measure(wrapped, 0), "cosine")
    for name, gradient in gradients.items():
        energy = torch.linalg.svdvals(gradient).square()
        assert cosines[name] == pytest.approx(math.sqrt(energy[:4].sum() / energy.sum()), rel=1e-4)


def test_full_fine_tuning_follows_the_gradient_itself(tiny_model, batch):
    wrapped, probe, _ = probed(tiny_model(), batch(3, 6), FullFT())
    rows = probe.measure(wrapped, 0)
    for measure in ("cosine", "efficiency", "captured_energy"):
        assert list(values(rows, measure).values()) == pytest.approx([1.0] * 5)
    assert {row.value for row in rows if row.measure == "drift"} == {0.0}


def test_nothing_attains_more_than_is_attainable(tiny_model, batch):
    for method in (Hu(), LoRASB()):
        wrapped, probe, _ = probed(tiny_model(), batch(3, 6), method)
        efficiencies = values(probe.measure(wrapped, 0), "efficiency").values()
        assert all(0 < efficiency <= 1 + 1e-5 for efficiency in efficiencies)


def test_the_global_row_takes_all_layers_as_one_vector(tiny_model, batch):
    wrapped, probe, gradients = probed(tiny_model(), batch(3, 6), Hu())
    found = values(probe.measure(wrapped, 0), "cosine")["all"]
    from bench.alignment import cosine, induced_gradient

    induced = [induced_gradient(gradients[x.name], x.factors(), x.scaling, x.trains).flatten() for x in probe.layers]
    gradient = torch.cat([gradients[x.name].flatten() for x in probe.layers])
    assert found == pytest.approx(cosine(torch.cat(induced), gradient), rel=1e-4)


def test_the_noise_ceiling_is_one_for_equal_halves_and_less_for_others(tiny_model, batch):
    wrapped, probe, _ = probed(tiny_model(), batch(3, 6), Hu())
    assert values(probe.measure(wrapped, 0), "noise_ceiling")["all"] == pytest.approx(1.0)
    wrapped, probe, _ = probed(tiny_model(), batch(3, 6), Hu(), both=batch(6, 6, seed=9))
    assert values(probe.measure(wrapped, 0), "noise_ceiling")["all"] < 0.99


@pytest.mark.parametrize("method", [Hu(), LoRAGA(), LoRASB()], ids=lambda m: m.label)
def test_drift_and_stable_rank_are_those_of_the_dense_change_of_w(tiny_model, batch, method):
    pretrained = {
        name: layer.weight.clone() for name, layer in adapter.target_layers(tiny_model(), PROJECTIONS).items()
    }
    wrapped, probe, _ = probed(tiny_model(), batch(3, 6), method)
    with torch.no_grad():
        for layer in probe.layers:
            layer.parameters()["lora_B"].add_(
                0.1 * torch.randn(layer.weight.shape[0], 2, generator=torch.manual_seed(1))
            )
    rows = probe.measure(wrapped, 5)
    for layer in probe.layers:
        change = layer.weight.detach() + layer.scaling * layer.factors().product() - pretrained[layer.name].detach()
        ratio = change.norm() / pretrained[layer.name].norm()
        assert values(rows, "drift")[layer.name] == pytest.approx(ratio.item(), rel=1e-4)
        stable = (change.norm() / torch.linalg.matrix_norm(change, 2)) ** 2
        assert values(rows, "stable_rank")[layer.name] == pytest.approx(stable.item(), rel=1e-3)


def test_measuring_leaves_no_trace(tiny_model, batch):
    wrapped, probe, _ = probed(tiny_model(), batch(3, 6), Hu())
    wrapped.train()
    for parameter in wrapped.parameters():
        parameter.grad = torch.full_like(parameter, 2.0) if parameter.requires_grad else None
    before = torch.get_rng_state()
    probe.measure(wrapped, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert wrapped.training
    assert all((p.grad == 2).all() for p in wrapped.parameters() if p.requires_grad)


def test_a_probe_is_due_at_its_interval_and_never_when_switched_off(tiny_model, batch):
    _, probe, _ = probed(tiny_model(), batch(3, 6), Hu())
    assert [step for step in range(11) if probe.due(step)] == [0, 5, 10]
    probe.settings = Measure(0)
    assert not any(probe.due(step) for step in range(11))
