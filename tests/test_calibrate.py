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


def test_a_model_with_every_weight_frozen_has_the_same_gradients_and_loss(tiny_model, batch):
    model, free, given = tiny_model().requires_grad_(False), tiny_model(), batch(3, 7)
    found = calibrate(model, target_layers(model, PROJECTIONS), [given], GRADIENT)
    expected = gradients_by_autograd(free, target_layers(free, PROJECTIONS), given)
    for name in expected:
        torch.testing.assert_close(found.gradient[name], expected[name], rtol=1e-5, atol=1e-7)
    assert found.loss == pytest.approx(free(**given).loss.item())


def test_a_target_weights_own_gradient_survives(tiny_model, batch):
    model = tiny_model()
    layers = target_layers(model, PROJECTIONS)
    for layer in layers.values():
        layer.weight.grad = torch.full_like(layer.weight, 3.0)
    calibrate(model, layers, [batch(2, 5)], GRADIENT)
    assert all((layer.weight.grad == 3).all() for layer in layers.values())


def test_every_batch_weighs_the_same_whatever_its_number_of_tokens(tiny_model, batch):
    model, short, long = tiny_model(), batch(1, 4), batch(5, 9, seed=1)
    layers = target_layers(model, ("up_proj",))
    one, two, both = (calibrate(model, layers, batches, GRADIENT) for batches in ([short], [long], [short, long]))
    assert one.loss != pytest.approx(two.loss)
    assert both.loss == pytest.approx((one.loss + two.loss) / 2)
    for name in layers:
        mean = (one.gradient[name] + two.gradient[name]) / 2
        torch.testing.assert_close(both.gradient[name], mean)


def test_every_token_weighs_the_same_in_the_covariance_whatever_its_batch(tiny_model, batch):
    model, short, long = tiny_model(), batch(1, 4), batch(5, 9, seed=1)
    layers, kind = target_layers(model, ("up_proj",)), frozenset({"input_covariance"})
    one, two, both = (calibrate(model, layers, batches, kind) for batches in ([short], [long], [short, long]))
    assert both.gradient == {}
    for name in layers:
        mean = (4 * one.input_covariance[name] + 45 * two.input_covariance[name]) / 49
        torch.testing.assert_close(both.input_covariance[name], mean)


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_hooks_are_as_before_also_after_an_error(tiny_model, batch, training):
    model = tiny_model().train(training)

    def fail(*_):
        raise KeyError

    with pytest.raises(KeyError):
        visit_gradients(model, target_layers(model, PROJECTIONS), batch(2, 5), fail)
    assert model.training == training
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_that_nothing_is_required_of_is_not_even_run(tiny_model):
    def unread():
        raise AssertionError("a batch was drawn")
        yield

    model = tiny_model()
    found = calibrate(model, target_layers(model, PROJECTIONS), unread(), frozenset())
    assert (found.gradient, found.input_covariance, found.loss, found.num_samples) == ({}, {}, None, 0)
