from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from bench.methods.base import PLAIN, Factors, Rank
from bench.model import adapter, weights
from bench.model.layers import check_rank, target_layers
from built_methods import built
from starts import start

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK = Rank("r4", 4, 8)
NAMES = sorted(path.stem for path in (Path(__file__).parents[1] / "conf" / "method").glob("*.yaml"))
ADAPTERS = [name for name in NAMES if name not in ("full_ft", "none")]
WITH_R = [built("lora_xs"), built("lora_sb")]


@pytest.fixture(params=ADAPTERS)
def method(request, compose_method):
    """Every method that adds an adapter, one after another."""
    return compose_method(request.param)


def started(model, batch, method, options=PLAIN):
    """Adapts a model as a run does; returns it, its layers, their first factors and the pretrained weights."""
    layers = target_layers(model, PROJECTIONS)
    pretrained = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    begun = start(model, method, RANK, PROJECTIONS, [batch(4, 6)], options)
    return begun.model, [layer for layer in begun.layers if layer.parameters()], begun.factors, pretrained


def logits(model, batch):
    with torch.no_grad():
        return model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def load(path, model, method, rank=RANK, options=PLAIN):
    return weights.load(weights.Saved.read(path), model, method, rank, target_layers(model, PROJECTIONS), options)


def train_steps(model, batch, steps=3):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_target_modules_that_match_nothing_are_answered_with_the_choices(tiny_model):
    with pytest.raises(ValueError, match=r"\['query'\] matches no linear layer; this model has \['down_proj'"):
        target_layers(tiny_model(), ("query",))


def test_a_target_is_matched_by_its_whole_last_name(tiny_model):
    assert all(name.endswith(".q_proj") for name in target_layers(tiny_model(), ("q_proj",)))
    with pytest.raises(ValueError, match=r"\['proj'\] matches no linear layer"):
        target_layers(tiny_model(), ("q_proj", "proj"))


def test_a_rank_beyond_the_smaller_side_is_refused_with_layer_and_limit_and_one_of_its_size_is_not(tiny_model):
    layers = target_layers(tiny_model(), PROJECTIONS)
    with pytest.raises(ValueError, match=r"rank.r=17 is larger than the smaller side 16 of .*0.self_attn.k_proj"):
        check_rank(layers, Rank("r17", 17, 34))
    check_rank(layers, Rank("r16", 16, 32))


def test_the_effective_weight_is_w_or_w_plus_the_adapter(tiny_model, batch, method):
    _, adapted, factors, pretrained = started(tiny_model(), batch, method)
    for layer in adapted:
        effective = layer.weight + layer.scaling * layer.factors().product()
        expected = pretrained[layer.name]
        if not method.keeps_function:
            expected = expected + layer.scaling * factors[layer.name].product()
        torch.testing.assert_close(effective.detach(), expected, rtol=1e-5, atol=1e-6)


def test_a_method_that_keeps_the_function_leaves_the_logits(tiny_model, batch, method):
    before = logits(tiny_model(), batch(2, 6))
    wrapped, *_ = started(tiny_model(), batch, method)
    if method.keeps_function:
        torch.testing.assert_close(logits(wrapped, batch(2, 6)), before, rtol=0, atol=1e-5)
    else:
        assert not torch.equal(logits(wrapped, batch(2, 6)), before)


def test_exactly_the_promised_tensors_train_and_the_rest_stays_bit_identical(tiny_model, batch, method):
    wrapped, adapted, *_ = started(tiny_model(), batch, method)
    promised = {id(layer.parameters()[part]) for layer in adapted for part in method.trains}
    assert {id(parameter) for parameter in wrapped.parameters() if parameter.requires_grad} == promised
    assert {p.dtype for layer in adapted for p in layer.parameters().values()} == {torch.float32}
    before = {name: parameter.detach().clone() for name, parameter in wrapped.named_parameters()}
    train_steps(wrapped, batch(3, 6))
    moved = {name for name, parameter in wrapped.named_parameters() if not torch.equal(parameter, before[name])}
    assert {name.split(".")[-3] for name in moved} == set(method.trains)
    assert len(moved) == len(adapted) * len(method.trains)


def test_merging_changes_no_logit(tiny_model, batch, method):
    wrapped, *_ = started(tiny_model(), batch, method)
    train_steps(wrapped, batch(3, 6))
    before = logits(wrapped, batch(2, 6))
    wrapped.merge_adapter()
    torch.testing.assert_close(logits(wrapped, batch(2, 6)), before, rtol=1e-5, atol=1e-5)
    wrapped.unmerge_adapter()
    torch.testing.assert_close(logits(wrapped, batch(2, 6)), before, rtol=1e-5, atol=1e-5)


def test_full_fine_tuning_saves_and_loads_every_weight_and_the_pretrained_model_none(tiny_model, batch, tmp_path):
    path = tmp_path / "x.safetensors"
    for method, count in ((built("full_ft"), len(list(tiny_model().parameters()))), (built("none"), 0)):
        model = tiny_model()
        wrapped, adapted = adapter.add(model, method, RANK, target_layers(model, PROJECTIONS))
        if count:
            train_steps(wrapped, batch(3, 6))
        weights.save(wrapped, adapted, {}, path)
        assert len(load_file(path)) == count
        again, *_ = load(path, tiny_model(), method)
        assert torch.equal(logits(again, batch(2, 6)), logits(wrapped, batch(2, 6)))


def test_adding_an_adapter_draws_nothing_from_the_global_stream(tiny_model, batch, method):
    model = tiny_model()
    before = torch.get_rng_state()
    started(model, batch, method)
    assert torch.equal(torch.get_rng_state(), before)


def test_in_a_bfloat16_base_the_residual_is_taken_from_the_stored_factors_and_adapters_stay_float32(
    tiny_model, batch, method
):
    before = logits(tiny_model().to(torch.bfloat16), batch(2, 6)).float()
    wrapped, adapted, factors, pretrained = started(tiny_model().to(torch.bfloat16), batch, method)
    for layer in adapted:
        assert layer.weight.dtype == torch.bfloat16
        assert {parameter.dtype for parameter in layer.parameters().values()} == {torch.float32}
        exact = pretrained[layer.name].float() - layer.scaling * factors[layer.name].product().float()
        expected = exact.to(torch.bfloat16) if method.keeps_function else pretrained[layer.name]
        torch.testing.assert_close(layer.weight.detach(), expected)
    if method.keeps_function:
        change = (logits(wrapped, batch(2, 6)).float() - before).abs().max()
        assert change < 0.05 * before.abs().max()


def test_target_layers_come_in_the_models_order_whatever_the_order_asked_for(tiny_model):
    model = tiny_model()
    parts = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
    layers = target_layers(model, ("down_proj", "v_proj", "q_proj"))
    assert list(layers) == [f"model.layers.{index}.{part}" for index in range(2) for part in parts]
    assert all(layer is model.get_submodule(name) for name, layer in layers.items())


@pytest.mark.parametrize(
    ("name", "expected"), [("hu", 2.0), ("reversed", 2.0), ("lora_ga", 4.0), ("lora_xs", 1.0), ("lora_sb", 1.0)]
)
def test_pefts_layer_scales_as_the_method_asks(tiny_model, batch, name, expected):
    _, adapted, *_ = started(tiny_model(), batch, built(name))
    assert len(adapted) == 2 * len(PROJECTIONS)
    for layer in adapted:
        assert layer.module.scaling["default"] == pytest.approx(expected)
        assert layer.scaling == pytest.approx(expected)


def test_lora_sb_starts_at_w_plus_best_rank_r_of_one_sign_step_on_the_calibration_gradient(tiny_model, batch):
    free = tiny_model().eval()
    free(**batch(4, 6)).loss.backward()
    _, adapted, *_ = started(tiny_model(), batch, built("lora_sb"))
    for layer in adapted:
        pretrained = free.get_submodule(layer.name).weight
        U, S, Vh = torch.linalg.svd(-0.01 * pretrained.grad.sign(), full_matrices=False)
        effective = layer.weight + layer.scaling * layer.factors().product()
        step = U[:, :4] * S[:4] @ Vh[:4]
        torch.testing.assert_close((effective - pretrained).detach(), step, rtol=1e-4, atol=1e-6)


def test_lora_xs_moves_logits_by_no_more_than_the_noise_of_r(tiny_model, batch):
    before = logits(tiny_model(), batch(2, 6))
    wrapped, *_ = started(tiny_model(), batch, built("lora_xs"))
    torch.testing.assert_close(logits(wrapped, batch(2, 6)), before, rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", WITH_R, ids=lambda m: m.label)
def test_the_layer_with_r_computes_base_plus_s_b_r_a_and_disabled_its_base(tiny_model, batch, method):
    before = logits(tiny_model(), batch(2, 6))
    wrapped, adapted, *_ = started(tiny_model(), batch, method)
    train_steps(wrapped, batch(3, 6))
    wrapped.eval()
    for layer in adapted:
        x = torch.randn(2, 5, layer.weight.shape[1], generator=torch.Generator().manual_seed(1))
        dense = layer.weight + layer.scaling * layer.factors().product()
        torch.testing.assert_close(layer.module(x), x @ dense.T, rtol=1e-5, atol=1e-5)
    assert (logits(wrapped, batch(2, 6)) - before).abs().max() > 1e-3
    with wrapped.disable_adapter():
        torch.testing.assert_close(logits(wrapped, batch(2, 6)), before, rtol=0, atol=1e-6)


def test_the_saved_file_names_its_scaling(tiny_model, batch, tmp_path):
    wrapped, adapted, factors, _ = started(tiny_model(), batch, built("lora_ga"))
    weights.save(wrapped, adapted, factors, tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert float(file.metadata()["scaling"]) == adapted[0].scaling


DORA = replace(PLAIN, use_dora=True)


def test_dora_starts_at_the_same_function_and_trains_row_norms_too(tiny_model, batch, method):
    if method.trains & {"lora_R", "lora_E"}:
        pytest.skip("DoRA has no matrix or vector between A and B; the configuration is refused")
    plain, *_ = started(tiny_model(), batch, method)
    wrapped, adapted, *_ = started(tiny_model(), batch, method, DORA)
    torch.testing.assert_close(logits(wrapped, batch(2, 6)), logits(plain, batch(2, 6)), rtol=0, atol=1e-5)
    before = {name: parameter.detach().clone() for name, parameter in wrapped.named_parameters()}
    train_steps(wrapped, batch(3, 6))
    moved = [name for name, parameter in wrapped.named_parameters() if not torch.equal(parameter, before[name])]
    assert len(moved) == len(adapted) * (len(method.trains) + 1)
    assert sum("lora_magnitude_vector" in name for name in moved) == len(adapted)
    for layer in adapted:
        assert layer.parameters()["lora_magnitude_vector"].dtype == torch.float32
        x = torch.randn(2, 5, layer.weight.shape[1], generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(layer.module.eval()(x), x @ layer.effective_weight().T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [PLAIN, DORA], ids=["plain", "dora"])
def test_what_is_saved_loads_without_loss(tiny_model, batch, method, options, tmp_path):
    if options is DORA and method.trains & {"lora_R", "lora_E"}:
        pytest.skip("DoRA has no matrix or vector between A and B")
    wrapped, adapted, factors, _ = started(tiny_model(), batch, method, options)
    train_steps(wrapped, batch(3, 6))
    weights.save(wrapped, adapted, factors, tmp_path / "x.safetensors")
    again, _, initial = load(tmp_path / "x.safetensors", tiny_model(), method, options=options)
    assert torch.equal(logits(again, batch(2, 6)), logits(wrapped, batch(2, 6)))
    train_steps(again, batch(3, 6))  # training goes on from there as it would have
    train_steps(wrapped, batch(3, 6))
    assert torch.equal(logits(again, batch(2, 6)), logits(wrapped, batch(2, 6)))
    assert initial.keys() == factors.keys()
    assert all(torch.equal(initial[name].lora_A, factors[name].lora_A) for name in factors)


def test_weights_of_another_method_or_scaling_are_not_loaded(tiny_model, batch, tmp_path):
    wrapped, adapted, factors, _ = started(tiny_model(), batch, built("lora_sb"))
    weights.save(wrapped, adapted, factors, path := tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"trained at scaling 1\.0, not 2\.0: method or rank differs"):
        load(path, tiny_model(), built("hu"))
    with pytest.raises(ValueError, match=r"these weights are not what LoRA trains in this model: .*lora_R"):
        load(path, tiny_model(), built("hu", scaling="one"))


def test_ranks_may_differ_and_a_layer_of_rank_0_is_left_alone(tiny_model):
    model = tiny_model()
    layers = target_layers(model, ("q_proj", "up_proj"))
    q, up, q1, up1 = layers
    before = model.get_submodule(q1)
    wrapped, adapted = adapter.add(model, built("hu"), RANK, layers, ranks={q: 2, up: 4, q1: 0, up1: 7})
    assert [len(layer.parameters().get("lora_A", ())) for layer in adapted] == [2, 4, 0, 7]
    assert [layer.scaling for layer in adapted] == [2.0, 2.0, 1.0, 2.0]
    assert {layer.module.scaling["default"] for layer in adapted if layer.parameters()} == {2.0}
    assert wrapped.base_model.model.get_submodule(q1) is before
    assert adapted[2].trains == frozenset()
    assert adapted[2].factors() is None
    assert not before.weight.requires_grad


def test_a_start_whose_product_is_zero_leaves_every_weight_bit_identical(tiny_model, batch):
    for method in (built("hu"), built("reversed"), built("orthogonal")):
        _, adapted, _, pretrained = started(tiny_model(), batch, method)
        assert all(torch.equal(layer.weight, pretrained[layer.name]) for layer in adapted)


def test_a_quantised_base_is_refused_where_w_would_be_rewritten_and_left_alone_otherwise(tiny_model):
    model = tiny_model()
    layers = target_layers(model, ("q_proj",))
    for layer in layers.values():
        layer.weight = torch.nn.Parameter(torch.ones_like(layer.weight, dtype=torch.int8), requires_grad=False)
    _, adapted = adapter.add(model, built("hu"), RANK, layers)
    A, B = torch.ones(4, 24), torch.ones(32, 4)
    adapter.fill(adapted[0], Factors(A, torch.zeros(32, 4)))
    with pytest.raises(ValueError, match=r"layers\.0\.self_attn\.q_proj is quantised \(torch\.int8\).* such as hu"):
        adapter.fill(adapted[0], Factors(A, B))


def test_layers_of_one_shape_start_from_different_draws(tiny_model, batch):
    _, adapted, *_ = started(tiny_model(), batch, built("hu"))
    factors = {layer.name: layer.factors().lora_A for layer in adapted}
    first, second = (factors[f"model.layers.{index}.self_attn.q_proj"] for index in (0, 1))
    assert not torch.equal(first, second)
