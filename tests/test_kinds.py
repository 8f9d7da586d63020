"""Encoders with a head, and encoder-decoders: what calibration, adapters, measures and training make of them."""

from types import SimpleNamespace

import pytest
import torch

from bench.init.calibrate import CalibrationRequest, calibrate
from bench.methods.base import Factors, Rank
from bench.methods.hu import Hu
from bench.model import adapter, weights
from bench.model.layers import heads, target_layers
from bench.model.load import LoadedModel
from bench.tasks.examples import IGNORED, Example, collate
from bench.train.probe import AlignmentProbe, Measure
from built_methods import built
from models import gradients_by_autograd, inputs_of, tiny_bart, tiny_bert, tiny_llama, tiny_roberta, tiny_t5

MODELS = {"bert": tiny_bert, "roberta": tiny_roberta, "t5": tiny_t5, "bart": tiny_bart, "llama": tiny_llama}
ENCODERS = ("bert", "roberta")
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
        elif name == "llama":
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
    from bench.init.calibrate import stage

    model, batch = MODELS[name](), batch_of(name)
    layers = target_layers(model, None)
    whole = calibrate(model, layers, [batch], CalibrationRequest(frozenset({"gradient"})))
    cut = stage.split
    monkeypatch.setattr(stage, "split", lambda batches, _size: cut(batches, 1))
    pieces = calibrate(model, layers, [batch], CalibrationRequest(frozenset({"gradient"})))
    assert pieces.facts.loss == pytest.approx(whole.facts.loss, rel=1e-5)
    torch.testing.assert_close(pieces.gradient, whole.gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_every_linear_layer_is_a_target_but_heads_and_output_embeddings(name):
    model = MODELS[name]()
    linear = {key for key, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    others = {
        "bert": {"bert.pooler.dense", "classifier"},
        "roberta": {"classifier.dense", "classifier.out_proj"},
    }
    assert linear - target_layers(model, None).keys() == others.get(name, {"lm_head"})


def test_targets_match_by_the_end_of_their_name_at_a_dot():
    model = tiny_roberta()
    assert len(target_layers(model, ("attention.output.dense",))) == 2
    assert len(target_layers(model, ("output.dense",))) == 4
    assert len(target_layers(model, ("dense",))) == 6  # never the head's
    with pytest.raises(ValueError, match="matches no linear layer"):
        target_layers(model, ("put.dense", "out_proj"))


@pytest.mark.parametrize("name", ENCODERS)
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


@pytest.mark.parametrize("name", MODELS)
def test_the_probe_sees_the_same_gradient_as_autograd(name):
    model = MODELS[name]()
    layers = target_layers(model, None)
    wrapped, adapted = adapter.add(model, built("hu"), RANK, layers)
    initial = {}
    for layer in adapted:
        out, width = layer.weight.shape
        A = torch.randn(3, width, generator=torch.Generator().manual_seed(1))
        initial[layer.name] = Factors(A, torch.zeros(out, 3))
        adapter.fill(layer, initial[layer.name])
    norms = {layer.name: layer.weight.norm().item() for layer in adapted}
    batch = batch_of(name)
    rows = AlignmentProbe(Measure(1), adapted, initial, norms, batch).measure(wrapped, 0)
    half = {key: tensor[:2] for key, tensor in batch.items()}
    bare = MODELS[name]()
    expected = gradients_by_autograd(bare, target_layers(bare, None), half)
    measured = {row.layer: row.value for row in rows if row.measure == "gradient_norm"}
    for layer, gradient in expected.items():
        assert measured[layer] == pytest.approx(gradient.norm().item(), rel=1e-3)


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
