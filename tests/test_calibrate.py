import pytest
import torch

from bench.adapter import target_layers
from bench.calibrate import calibrate, visit_gradients, weight_gradient

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GRADIENT = frozenset({"gradient"})


def gradients_by_autograd(model, layers, batch):
    model.zero_grad()
    model.eval()
    model(**batch).loss.backward()
    return {name: layer.weight.grad.clone() for name, layer in layers.items()}


def test_the_gradient_is_autograds_mean_over_batches(tiny_model, batch):
    model, batches = tiny_model(), [batch(3, 7, seed=1), batch(2, 5, seed=2)]
    layers = target_layers(model, PROJECTIONS)
    found = calibrate(model, layers, batches, GRADIENT)
    expected = [gradients_by_autograd(model, layers, b) for b in batches]
    for name in layers:
        torch.testing.assert_close(
            found.gradient[name], (expected[0][name] + expected[1][name]) / 2, rtol=1e-5, atol=1e-7
        )
    assert found.num_samples == 5


@pytest.mark.parametrize("frozen", [True, False])
def test_no_parameters_gradient_is_formed_or_changed(tiny_model, batch, frozen):
    model = tiny_model()
    model.requires_grad_(not frozen)
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    calibrate(model, target_layers(model, PROJECTIONS), [batch(2, 5)], GRADIENT)
    assert (model.lm_head.weight.grad == 1).all()
    assert all(p.grad is None for name, p in model.named_parameters() if name != "lm_head.weight")


def test_layers_come_last_first_one_at_a_time(tiny_model, batch):
    model, seen = tiny_model(), []
    visit_gradients(
        model, target_layers(model, ("down_proj", "q_proj")), batch(2, 5), lambda name, *_: seen.append(name)
    )
    assert [name.split(".")[2] + name.rpartition(".")[2] for name in seen] == [
        "1down_proj",
        "1q_proj",
        "0down_proj",
        "0q_proj",
    ]


def test_covariance_is_over_real_tokens_only(tiny_model, batch):
    model = tiny_model()
    padded = batch(2, 6)
    padded["attention_mask"][0, 4:] = 0
    layers, inputs = target_layers(model, ("down_proj",)), {}
    found = calibrate(model, layers, [padded], frozenset({"input_covariance"}))
    hooks = [
        layer.register_forward_hook(lambda _m, args, _o, name=name: inputs.__setitem__(name, args[0].detach()))
        for name, layer in layers.items()
    ]
    model.eval()(**padded)
    for hook in hooks:
        hook.remove()
    for name in layers:
        tokens = inputs[name][padded["attention_mask"].bool()]
        torch.testing.assert_close(found.input_covariance[name], tokens.T @ tokens / 10)


def test_mode_and_hooks_are_as_before(tiny_model, batch):
    model = tiny_model().train()
    calibrate(model, target_layers(model, PROJECTIONS), [batch(2, 5)], GRADIENT)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_nothing_required_is_nothing_computed(tiny_model):
    assert calibrate(tiny_model(), {}, [], frozenset()).gradient == {}


def test_no_batches_is_an_error(tiny_model):
    with pytest.raises(ValueError, match="at least one batch"):
        calibrate(tiny_model(), {}, [], GRADIENT)


def test_a_model_whose_loss_is_not_finite_is_refused(tiny_model, batch):
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="loss on the calibration samples is nan"):
        calibrate(model, target_layers(model, ("q_proj",)), [batch(2, 5)], GRADIENT)


def test_a_weight_gradient_is_the_sum_over_tokens_of_output_gradient_times_input():
    inputs, outer = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[10.0, 20.0]]])
    assert weight_gradient(inputs, outer).tolist() == [[10.0, 20.0, 30.0], [20.0, 40.0, 60.0]]
