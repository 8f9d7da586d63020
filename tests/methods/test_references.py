import pytest
import torch
from pydantic import ValidationError

from bench.methods.base import Method, Rank
from bench.methods.full_ft import FullFT
from bench.methods.none import NoTraining
from bench.model import adapter
from bench.model.layers import target_layers
from built_methods import built

RANK = Rank("r3", 3, 6)
each_reference = pytest.mark.parametrize("method", [built("full_ft"), built("none")], ids=lambda m: m.label)


def added(model, method):
    return adapter.add(model, method, RANK, target_layers(model, ("q_proj", "down_proj")))


@each_reference
def test_a_reference_is_a_method_without_factors_and_needs_no_statistics(method):
    assert isinstance(method, Method)
    assert not method.has_adapter
    assert method.requires == frozenset()
    assert method.keeps_function


@each_reference
def test_a_reference_adds_nothing_to_the_model(tiny_model, batch, method):
    before = tiny_model().eval()(**batch(2, 6)).logits
    model = tiny_model()
    wrapped, layers = added(model, method)
    assert wrapped is model
    assert [layer.factors() for layer in layers] == [None] * 4
    assert {layer.scaling for layer in layers} == {1.0}
    assert torch.equal(wrapped.eval()(**batch(2, 6)).logits, before)


def test_full_fine_tuning_trains_every_parameter_embeddings_and_norms_included(tiny_model):
    model = tiny_model().requires_grad_(False)
    wrapped, _ = added(model, built("full_ft"))
    assert all(parameter.requires_grad for parameter in wrapped.parameters())
    assert FullFT.trains == {"weight"}


def test_full_fine_tuning_has_float32_masters_of_a_bfloat16_base(tiny_model):
    wrapped, layers = added(tiny_model().to(torch.bfloat16), built("full_ft"))
    assert {parameter.dtype for parameter in wrapped.parameters()} == {torch.float32}
    assert {layer.weight.dtype for layer in layers} == {torch.float32}


def test_the_pretrained_reference_trains_nothing(tiny_model):
    wrapped, _ = added(tiny_model(), built("none"))
    assert not any(parameter.requires_grad for parameter in wrapped.parameters())
    assert NoTraining.trains == frozenset()


@pytest.mark.parametrize("reference", [FullFT, NoTraining])
def test_a_setting_that_a_reference_does_not_have_is_refused(reference):
    with pytest.raises(ValidationError, match="gamma"):
        reference(gamma=1.0)
