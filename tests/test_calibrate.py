import pytest
import torch

from bench.adapter import target_layers
from bench.calibrate import Wanted, calibrate
from bench.calibrate.visit import visit_gradients, weight_gradient

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GRADIENT = Wanted(keeps=frozenset({"gradient"}))


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


def inputs_of(model, layers, batch):
    """What each layer is given, by a forward hook."""
    inputs = {}
    hooks = [
        layer.register_forward_hook(lambda _m, args, _o, name=name: inputs.__setitem__(name, args[0].detach()))
        for name, layer in layers.items()
    ]
    model.eval()(**batch)
    for hook in hooks:
        hook.remove()
    return inputs


def padded_batch(batch):
    padded = batch(2, 6)
    padded["attention_mask"][0, 4:] = 0
    padded["labels"][0, 4:] = -100
    return padded


def test_input_covariance_is_of_sequences_scaled_by_their_largest_entry_padding_left_out(tiny_model, batch):
    model, padded = tiny_model(), padded_batch(batch)
    layers = target_layers(model, ("down_proj",))
    found = calibrate(model, layers, [padded], Wanted(frozenset({"input_covariance"})))
    inputs = inputs_of(model, layers, padded)
    for name in layers:
        one, two = inputs[name][0, :4], inputs[name][1]
        expected = (one.T @ one / one.max() ** 2 + two.T @ two / two.max() ** 2) / 2
        torch.testing.assert_close(found.input_covariance[name], expected)


def test_label_covariance_is_that_of_the_inputs_at_learned_tokens(tiny_model, batch):
    model, padded, more = tiny_model(), padded_batch(batch), batch(3, 5, seed=4)
    layers = target_layers(model, ("q_proj", "down_proj"))
    found = calibrate(model, layers, [padded, more], Wanted(frozenset({"label_covariance"})))
    first, second = inputs_of(model, layers, padded), inputs_of(model, layers, more)
    for name in layers:
        learned = torch.cat([first[name][0, 2:4], first[name][1, 2:], second[name][:, 2:].flatten(0, 1)])
        torch.testing.assert_close(
            found.label_covariance[name], torch.cov(learned.T, correction=0), rtol=1e-4, atol=1e-6
        )


def test_several_statistics_come_of_one_pass_and_the_gradient_alone_needs_a_backward_one(tiny_model, batch):
    model = tiny_model()
    layers, given = target_layers(model, PROJECTIONS), [batch(2, 5)]
    all_kinds = frozenset({"gradient", "input_covariance", "label_covariance"})
    together = calibrate(model, layers, given, Wanted(all_kinds))
    for kind in all_kinds:
        alone = getattr(calibrate(model, layers, given, Wanted(frozenset({kind}))), kind)
        assert alone.keys() == layers.keys()
        for name, value in alone.items():
            torch.testing.assert_close(getattr(together, kind)[name], value)
    backward = []
    model.lm_head.register_full_backward_hook(lambda *_: backward.append(1))
    calibrate(model, layers, given, Wanted(frozenset({"input_covariance", "label_covariance"})))
    assert not backward


def test_mode_and_hooks_are_as_before(tiny_model, batch):
    model = tiny_model().train()
    calibrate(model, target_layers(model, PROJECTIONS), [batch(2, 5)], GRADIENT)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_nothing_required_is_nothing_computed(tiny_model):
    assert calibrate(tiny_model(), {}, [], Wanted()).gradient == {}


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


@pytest.mark.parametrize("kind", ["input_covariance", "label_covariance"])
def test_covariances_do_not_depend_on_how_samples_are_batched(tiny_model, batch, kind):
    model, whole = tiny_model(), batch(5, 6)
    layers = target_layers(model, ("up_proj",))
    halves = [{key: tensor[rows] for key, tensor in whole.items()} for rows in (slice(0, 2), slice(2, 5))]
    one, two = (
        getattr(calibrate(model, layers, batches, Wanted(frozenset({kind}))), kind) for batches in ([whole], halves)
    )
    for name in layers:
        torch.testing.assert_close(one[name], two[name])


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
    found = calibrate(model, target_layers(model, PROJECTIONS), unread(), Wanted())
    assert (found.gradient, found.input_covariance, found.loss, found.num_samples) == ({}, {}, None, 0)
