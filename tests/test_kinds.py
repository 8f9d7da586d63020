"""Encoders with a head, and encoder-decoders: what calibration, adapters, measures and training make of them."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from bench.init.calibrate import CalibrationRequest, calibrate
from bench.methods.base import Factors, Rank
from bench.methods.hu import Hu
from bench.model import adapter, weights
from bench.model.gradients import token_mask
from bench.model.layers import heads, target_layers
from bench.model.load import LoadedModel
from bench.tasks.examples import IGNORED, Example, collate
from bench.train import alignment
from bench.train.probe import AlignmentProbe, Measure
from built_methods import built
from models import (
    calls_of,
    gradients_by_autograd,
    inputs_of,
    tiny_albert,
    tiny_bart,
    tiny_bert,
    tiny_deberta,
    tiny_llama,
    tiny_longformer,
    tiny_opt,
    tiny_roberta,
    tiny_switch,
    tiny_t5,
)
from starts import start

MODELS = {
    "bert": tiny_bert,
    "roberta": tiny_roberta,
    "albert": tiny_albert,
    "deberta": tiny_deberta,
    "deberta, own projections": partial(tiny_deberta, share_att_key=False),
    "longformer": tiny_longformer,
    "t5": tiny_t5,
    "bart": tiny_bart,
    "switch": tiny_switch,
    "llama": tiny_llama,
    "opt": tiny_opt,
}
ENCODERS = ("bert", "roberta", "albert", "deberta", "deberta, own projections", "longformer")
CAUSAL = ("llama", "opt")
WITH_CHECKPOINTS = ("deberta", "deberta, own projections", "switch", "llama", "opt")  # and without dropout
RANK = Rank("r3", 3, 6)


def tokens(length, seed):
    return torch.randint(4, 50, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def examples(name, lengths=((5, 3), (7, 4), (4, 2), (6, 3))):
    """Of different lengths, so that there is padding on both sides of an encoder-decoder."""
    found = []
    for index, (read, written) in enumerate(lengths):
        ids, target = tokens(read, index), tokens(written, 100 + index)
        if name in ENCODERS:
            found.append(Example(ids, index % 2))
        elif name in CAUSAL:
            found.append(Example(ids + target, [IGNORED] * read + target))
        else:
            found.append(Example(ids, target))
    return found


def batch_of(name, **given):
    return collate(examples(name, **given), pad_token_id=0)


@pytest.mark.parametrize("name", MODELS)
def test_every_layers_gradient_is_autograds_also_behind_the_decoders_own_embedding(name):
    model, batch = MODELS[name](), batch_of(name)
    layers = target_layers(model, None)
    found = calibrate(model, layers, [batch], CalibrationRequest(frozenset({"gradient"})))
    expected = gradients_by_autograd(model, layers, batch)
    torch.testing.assert_close(found.gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_in_pieces_has_the_gradient_of_the_whole(name, monkeypatch):
    model, batch = MODELS[name](), batch_of(name)
    layers = target_layers(model, None)
    whole = calibrate(model, layers, [batch], CalibrationRequest(frozenset({"gradient"})))
    one_sample_a_pass(monkeypatch)
    pieces = calibrate(model, layers, [batch], CalibrationRequest(frozenset({"gradient"})))
    assert pieces.facts.loss == pytest.approx(whole.facts.loss, rel=1e-5)
    torch.testing.assert_close(pieces.gradient, whole.gradient, rtol=1e-4, atol=1e-6)


def one_sample_a_pass(monkeypatch):
    from bench.init.calibrate import stage

    cut = stage.split
    monkeypatch.setattr(stage, "split", lambda batches, cutter, _most_rows: cut(batches, cutter, 1))


@pytest.mark.parametrize("name", WITH_CHECKPOINTS)
def test_checkpointing_pairs_each_call_with_its_own_input(name):
    model, batch = MODELS[name](), batch_of(name)
    layers = target_layers(model, None)
    wanted = CalibrationRequest(frozenset({"gradient"}))
    found = calibrate(model, layers, [batch], wanted, checkpointing=True)
    torch.testing.assert_close(found.gradient, gradients_by_autograd(model, layers, batch), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["albert", "deberta", "opt"])
def test_a_sketch_as_wide_as_the_layers_holds_the_gradient_of_all_calls(name):
    model, batch = MODELS[name](), batch_of(name)
    layers = target_layers(model, None)
    wanted = CalibrationRequest(svds=frozenset({"gradient"}), sketched=True, num_singular=3)
    found = calibrate(model, layers, [batch], wanted).svds["gradient"]
    for layer, G in gradients_by_autograd(model, layers, batch).items():
        torch.testing.assert_close(found[layer].S, torch.linalg.svdvals(G)[:3], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["input_covariance", "label_covariance"])
@pytest.mark.parametrize("name", MODELS)
def test_a_covariance_is_of_every_call_and_of_single_samples_without_padding(name, kind):
    model, given = MODELS[name](), examples(name)
    layers = target_layers(model, None)
    found = getattr(calibrate(model, layers, [batch_of(name)], CalibrationRequest(frozenset({kind}))), kind)
    calls = {layer: [] for layer in layers}
    for example in given:
        alone = collate([example], pad_token_id=0)
        learned = alone["labels"][0] != IGNORED if kind == "label_covariance" and name in CAUSAL else slice(None)
        for layer, inputs in calls_of(model, layers, alone).items():
            calls[layer] += [rows.flatten(0, -2)[learned].double() for rows in inputs]
    for layer, rows in calls.items():
        if kind == "input_covariance":
            expected = sum((x / x.max().abs()).T @ (x / x.max().abs()) for x in rows) / len(given) if rows else 0
        else:
            expected = torch.cov(torch.cat(rows).T, correction=0) if rows else 0
        expected = torch.as_tensor(expected, dtype=torch.float32).expand_as(found[layer])
        torch.testing.assert_close(found[layer], expected, rtol=1e-3, atol=1e-4)


def test_an_expert_that_is_sent_as_many_rows_as_there_are_tokens_is_not_taken_for_a_layer_of_all_tokens():
    mask = torch.ones(2, 3, dtype=torch.bool)
    assert token_mask("layers.0.mlp.shared_expert.up_proj", torch.Size([6]), mask) is mask
    assert token_mask("layers.0.mlp.experts.1.up_proj", torch.Size([6]), mask) is None


@pytest.mark.parametrize("method", ["lora_ga", "lora_ga_peft", "lora_one", "lora_sb", "eva", "corda"])
def test_an_expert_that_no_calibration_sample_reaches_is_warned_about_and_starts_from_zeros(method):
    bare = tiny_switch()
    gradients = gradients_by_autograd(bare, target_layers(bare, None), batch_of("switch"))
    unreached = [name for name, gradient in gradients.items() if not gradient.any()]
    assert "experts" in unreached[0]
    with pytest.warns(UserWarning, match=rf"reaches {len(unreached)} of {len(gradients)} layers \({unreached[0]}, "):
        begun = start(tiny_switch(), built(method), RANK, None, [batch_of("switch")])
    for factors in begun.factors.values():
        assert all(value.isfinite().all() for value in vars(factors).values() if value is not None)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_an_expert_that_one_batch_alone_reaches_has_the_mean_gradient(order):
    model, batches = tiny_switch(), [batch_of("switch"), batch_of("switch", lengths=((3, 4), (9, 2)))]
    layers = {name: layer for name, layer in target_layers(model, ("wi",)).items() if "experts" in name}
    one, two = (gradients_by_autograd(model, layers, batch) for batch in batches)
    assert any(one[name].any() != two[name].any() for name in layers)
    found = calibrate(model, layers, [batches[i] for i in order], CalibrationRequest(frozenset({"gradient"}))).gradient
    torch.testing.assert_close(found, {name: (one[name] + two[name]) / 2 for name in layers}, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rows", [(3, 2), (2,), (1, 6), (2, 3, 1), (5,)])
def test_rows_of_another_shape_are_not_the_tokens_of_the_batch(rows):
    assert token_mask("layer", torch.Size(rows), torch.ones(2, 3, dtype=torch.bool)) is None


@pytest.mark.parametrize("name", MODELS)
def test_every_linear_layer_is_a_target_but_heads_and_output_embeddings(name):
    model = MODELS[name]()
    linear = {key for key, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    others = {
        "bert": {"bert.pooler.dense", "classifier"},
        "roberta": {"classifier.dense", "classifier.out_proj"},
        "albert": {"albert.pooler", "classifier"},
        "deberta": {"pooler.dense", "classifier"},
        "deberta, own projections": {"pooler.dense", "classifier"},
        "longformer": {"classifier.dense", "classifier.out_proj"},
    }
    assert linear - target_layers(model, None).keys() == others.get(name, {"lm_head"})


def test_targets_match_by_the_end_of_their_name_at_a_dot():
    model = tiny_roberta()
    assert len(target_layers(model, ("attention.output.dense",))) == 2
    assert len(target_layers(model, ("output.dense",))) == 4
    assert len(target_layers(model, ("dense",))) == 6  # never the head's
    with pytest.raises(ValueError, match="matches no linear layer"):
        target_layers(model, ("put.dense", "out_proj"))


@pytest.mark.parametrize("name", ["bert", "roberta"])
@pytest.mark.parametrize("method", [built("hu"), built("full_ft"), built("none")])
def test_the_head_trains_with_every_method_that_trains(name, method):
    model = MODELS[name]()
    wrapped, _ = adapter.add(model, method, RANK, target_layers(model, ("query",)))
    head = [p for module in heads(wrapped).values() for p in module.parameters()]
    assert head
    assert all(p.requires_grad == bool(method.trains) and p.dtype == torch.float32 for p in head)
    if isinstance(method, Hu):
        free = {key for key, p in wrapped.named_parameters() if p.requires_grad}
        assert all("lora_" in key or "classifier" in key for key in free)


def test_language_models_have_no_head():
    assert not any(heads(MODELS[name]()) for name in ("t5", "bart", "llama"))


@pytest.mark.parametrize("method", [built("hu"), built("full_ft")])
def test_a_saved_head_comes_back_with_the_adapter(method, tmp_path):
    model, again = tiny_roberta(), tiny_roberta()
    layers, others = (target_layers(one, ("query", "intermediate.dense")) for one in (model, again))
    wrapped, adapted = adapter.add(model, method, RANK, layers)
    initial = {layer.name: layer.factors() for layer in adapted if layer.factors() is not None}
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    weights.save(wrapped, adapted, initial, tmp_path / "x.safetensors")
    again, *_ = weights.load(weights.Saved.read(tmp_path / "x.safetensors"), again, method, RANK, others)
    batch = batch_of("roberta")
    with torch.no_grad():
        assert torch.equal(again.eval()(**batch).logits, wrapped.eval()(**batch).logits)


def probed(name, layers=None, batch=None):
    """The rows of a probe at step 0, by layer and measure, and the adapted layers."""
    model = MODELS[name]()
    wrapped, adapted = adapter.add(model, built("hu"), RANK, target_layers(model, layers))
    initial = {}
    for layer in adapted:
        out, width = layer.weight.shape
        A = torch.randn(3, width, generator=torch.Generator().manual_seed(1))
        initial[layer.name] = Factors(A, torch.zeros(out, 3))
        adapter.fill(layer, initial[layer.name])
    norms = {layer.name: layer.weight.norm().item() for layer in adapted}
    probe = AlignmentProbe(Measure(1), adapted, initial, norms, batch or batch_of(name))
    rows = probe.measure(wrapped, 0)
    found = {(row.layer, row.measure): row.value for row in rows}
    assert len(found) == len(rows)  # one row a layer and measure
    return found, adapted


@pytest.mark.parametrize("name", MODELS)
def test_the_probe_sees_the_gradients_of_both_halves_as_autograd_does(name):
    batch = batch_of(name)
    found, adapted = probed(name)
    bare = MODELS[name]()
    G, other = (
        gradients_by_autograd(bare, target_layers(bare, None), {key: t[part] for key, t in batch.items()})
        for part in (slice(2), slice(2, 4))
    )
    assert {layer for layer, _ in found} == {*G, "all"}
    calls = calls_of(bare, target_layers(bare, None), batch)
    for layer in adapted:
        one, two = G[layer.name], other[layer.name]
        A = layer.factors().lora_A
        energy = (one @ torch.linalg.pinv(A) @ A).square().sum() / one.square().sum()
        expected = {
            "gradient_norm": one.norm().item() if calls[layer.name] else None,  # an expert may not be called
            "noise_ceiling": alignment.cosine(one, two),
            "captured_energy": energy.item() if one.any() else None,
        }
        for measure, value in expected.items():
            assert found[layer.name, measure] == (None if value is None else pytest.approx(value, rel=1e-3, abs=1e-5))
        assert found[layer.name, "drift"] == 0
    everything = torch.cat([one.flatten() for one in G.values()]).norm().item()
    assert found["all", "gradient_norm"] == pytest.approx(everything, rel=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_feature_norms_are_means_over_the_tokens_of_every_call_without_padding(name):
    found, adapted = probed(name)
    bare = MODELS[name]()
    layers = target_layers(bare, None)
    seen = {layer: [] for layer in layers}
    for example in examples(name):
        for layer, calls in calls_of(bare, layers, collate([example], pad_token_id=0)).items():
            seen[layer] += [rows.flatten(0, -2) for rows in calls]
    with_features = {layer for layer, measure in found if measure == "X_norm" and layer != "all"}
    # Rows of relative positions, of an expert's tokens, and of tokens that the model pads itself are not the batch's.
    positions = {"deberta": ("query_proj", "key_proj"), "deberta, own projections": ("pos_query_proj", "pos_key_proj")}
    positions["longformer"] = ("",)
    without = {x for x in layers if x.endswith(positions.get(name, ".experts.")) or "experts" in x.split(".")}
    assert with_features == layers.keys() - without
    for layer in adapted:
        if layer.name in with_features:
            x = torch.cat(seen[layer.name])
            norms = {"X_norm": x, "Z_A_norm": x @ layer.factors().lora_A.T}
            for measure, Z in norms.items():
                assert found[layer.name, measure] == pytest.approx(Z.norm(dim=1).mean().item(), rel=1e-3)


COVARIANCES = {
    "bert": {"bert.encoder.layer.1.intermediate.dense": "read"},
    "t5": {
        "encoder.block.1.layer.1.DenseReluDense.wi": "read",
        "decoder.block.1.layer.1.EncDecAttention.k": "read",
        "decoder.block.1.layer.1.EncDecAttention.q": "written",
        "decoder.block.0.layer.0.SelfAttention.v": "written",
    },
    "bart": {
        "model.encoder.layers.1.fc1": "read",
        "model.decoder.layers.0.encoder_attn.v_proj": "read",
        "model.decoder.layers.0.self_attn.v_proj": "written",
        "model.decoder.layers.1.encoder_attn.out_proj": "written",
    },
}


@pytest.mark.parametrize("name", COVARIANCES)
@pytest.mark.parametrize("lengths", [((5, 3), (7, 4), (4, 2)), ((5, 7), (7, 3), (4, 2))])  # the second: equal widths
def test_a_covariance_is_over_the_tokens_of_the_layers_own_side(name, lengths):
    model, batch = MODELS[name](), batch_of(name, lengths=lengths)
    layers = {key: model.get_submodule(key) for key in COVARIANCES[name]}
    found = calibrate(model, layers, [batch], CalibrationRequest(frozenset({"label_covariance", "input_covariance"})))
    given = inputs_of(model, layers, batch)
    for layer, side in COVARIANCES[name].items():
        inputs = given[layer]
        mask = batch["attention_mask"].bool() if side == "read" else batch["labels"] != IGNORED
        counted = inputs[mask].double()
        expected = torch.cov(counted.T, correction=0).float()
        torch.testing.assert_close(found.label_covariance[layer], expected, rtol=1e-4, atol=1e-5)
        rows = [sequence[own] / sequence[own].max().abs() for sequence, own in zip(inputs, mask, strict=True)]
        scaled = torch.cat(rows)
        torch.testing.assert_close(found.input_covariance[layer], scaled.T @ scaled / len(rows), rtol=1e-4, atol=1e-4)


def test_a_calibration_is_not_shared_between_heads_but_between_equal_ones():
    from bench.init.calibrate.cached import key

    task = SimpleNamespace(calibration=[batch_of("bert")], calibration_checkpointing=False)
    wanted = CalibrationRequest(frozenset({"gradient"}))

    def key_of(seed):
        model = tiny_bert()
        torch.manual_seed(seed)
        torch.nn.init.normal_(model.classifier.weight)
        layers = target_layers(model, ("query",))
        return key(LoadedModel(model, None, "abc"), layers, task, wanted, "here")

    assert key_of(0) == key_of(0)
    assert key_of(0) != key_of(1)
