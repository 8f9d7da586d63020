import copy
import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from bench.init.calibrate import Calibration, CalibrationRequest, calibrate, key, shared
from bench.init.calibrate.collect import Collector, split
from bench.init.calibrate.result import STATISTICS
from bench.methods.base import Rank
from bench.methods.svd import EXACT, exact_svd
from bench.model.gradients import visit_gradients, weight_gradient
from bench.model.layers import target_layers
from bench.model.load import UNKNOWN, LoadedModel
from bench.model.packing import understands_packing
from bench.model.pieces import Cutter
from bench.model.sums import InScratchFiles, choose_place
from bench.process.store import Cache, entries
from models import gradients_by_autograd, inputs_of

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GRADIENT = CalibrationRequest(matrices=frozenset({"gradient"}))


@pytest.mark.parametrize("frozen", [True, False])
def test_gradient_and_loss_are_the_mean_over_batches_whatever_their_numbers_of_tokens(tiny_model, batch, frozen):
    model, free, batches = tiny_model(), tiny_model(), [batch(3, 7, seed=1), batch(2, 5, seed=2)]
    found = calibrate(model.requires_grad_(not frozen), target_layers(model, PROJECTIONS), batches, GRADIENT)
    one, two = (gradients_by_autograd(free, target_layers(free, PROJECTIONS), given) for given in batches)
    mean = {name: (one[name] + two[name]) / 2 for name in one}
    torch.testing.assert_close(found.gradient, mean, rtol=1e-5, atol=1e-7)
    losses = [free(**given).loss.item() for given in batches]
    assert losses[0] != pytest.approx(losses[1])
    assert found.facts.loss == pytest.approx(sum(losses) / 2)
    assert found.facts.num_samples == 5


@pytest.mark.parametrize("frozen", [True, False])
def test_no_parameters_gradient_is_formed_or_changed(tiny_model, batch, frozen):
    model = tiny_model()
    model.requires_grad_(not frozen)
    own = ("lm_head.weight", "model.layers.0.mlp.up_proj.weight")  # one that is no target, one that is
    for name in own:
        model.get_parameter(name).grad = torch.full_like(model.get_parameter(name), 3.0)
    calibrate(model, target_layers(model, PROJECTIONS), [batch(2, 5)], GRADIENT)
    assert all((model.get_parameter(name).grad == 3).all() for name in own)
    assert all(p.grad is None for name, p in model.named_parameters() if name not in own)


def test_layers_come_last_first_one_at_a_time(tiny_model, batch):
    model, seen = tiny_model(), []
    layers = target_layers(model, ("down_proj", "q_proj"))
    visit_gradients(model, layers, batch(2, 5), lambda name, *_: seen.append(name))
    assert seen == list(reversed(layers))


def assert_nearly(found, expected):
    """Rounding of a sum in another order: 1e-5 of each matrix's norm."""
    assert found.keys() == expected.keys()
    assert all((found[name] - expected[name]).norm() < 1e-5 * expected[name].norm() for name in expected)


def padded_batch(batch):
    padded = batch(2, 6)
    padded["attention_mask"][0, 4:] = 0
    padded["labels"][0, 4:] = -100
    return padded


def test_input_covariance_is_of_sequences_scaled_by_their_largest_entry_padding_left_out(tiny_model, batch):
    model, padded = tiny_model(), padded_batch(batch)
    layers = target_layers(model, ("down_proj",))
    found = calibrate(model, layers, [padded], CalibrationRequest(frozenset({"input_covariance"})))
    inputs = inputs_of(model, layers, padded)
    for name in layers:
        one, two = inputs[name][0, :4], inputs[name][1]
        expected = (one.T @ one / one.max() ** 2 + two.T @ two / two.max() ** 2) / 2
        torch.testing.assert_close(found.input_covariance[name], expected)


def test_label_covariance_is_that_of_the_inputs_at_learned_tokens(tiny_model, batch):
    model, padded, more = tiny_model(), padded_batch(batch), batch(3, 5, seed=4)
    layers = target_layers(model, ("q_proj", "down_proj"))
    found = calibrate(model, layers, [padded, more], CalibrationRequest(frozenset({"label_covariance"})))
    first, second = inputs_of(model, layers, padded), inputs_of(model, layers, more)
    for name in layers:
        learned = torch.cat([first[name][0, 2:4], first[name][1, 2:], second[name][:, 2:].flatten(0, 1)])
        torch.testing.assert_close(
            found.label_covariance[name], torch.cov(learned.T, correction=0), rtol=1e-4, atol=1e-6
        )


def test_token_covariance_is_uncentred_and_of_every_token_that_is_no_padding(tiny_model, batch):
    model, padded, more = tiny_model(), padded_batch(batch), batch(3, 5, seed=4)
    layers = target_layers(model, ("q_proj", "down_proj"))
    found = calibrate(model, layers, [padded, more], CalibrationRequest(frozenset({"token_covariance"})))
    first, second = inputs_of(model, layers, padded), inputs_of(model, layers, more)
    for name in layers:
        X = torch.cat([first[name][0, :4], first[name][1], second[name].flatten(0, 1)])
        torch.testing.assert_close(found.token_covariance[name], X.T @ X / len(X), rtol=1e-4, atol=1e-6)


def test_output_covariance_is_of_outputs_with_bias_scaled_by_their_largest_entry_padding_left_out(tiny_model, batch):
    model, padded = tiny_model(attention_bias=True), padded_batch(batch)
    layers = target_layers(model, ("k_proj",))
    for layer in layers.values():
        layer.bias.data.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    inputs = inputs_of(model, layers, padded)
    for kinds in ({"output_covariance"}, {"output_covariance", "gradient"}):
        found = calibrate(model, layers, [padded], CalibrationRequest(frozenset(kinds)))
        for name, layer in layers.items():
            outputs = inputs[name] @ layer.weight.detach().T + layer.bias.detach()
            one, two = outputs[0, :4], outputs[1]
            expected = (one.T @ one / one.max() ** 2 + two.T @ two / two.max() ** 2) / 2
            torch.testing.assert_close(found.output_covariance[name], expected, rtol=1e-4, atol=1e-5)


def test_output_fisher_is_the_mean_over_tokens_of_squared_gradients_of_each_samples_own_loss(tiny_model, batch):
    model, padded, more = tiny_model(), padded_batch(batch), batch(3, 5, seed=4)
    layers = target_layers(model, ("v_proj", "down_proj"))
    seen = {name: [] for name in layers}
    for given in (padded, more):
        for row in range(len(given["input_ids"])):
            tokens = given["attention_mask"][row].bool()
            alone = {key: tensor[row, tokens][None] for key, tensor in given.items()}
            visit_gradients(model, layers, alone, lambda name, _, gradient: seen[name].append(gradient[0]))
    found = calibrate(model, layers, [padded, more], CalibrationRequest(frozenset({"output_fisher"}))).output_fisher
    for name in layers:
        torch.testing.assert_close(found[name], torch.cat(seen[name]).square().mean(dim=0), rtol=1e-4, atol=0)


def test_several_statistics_come_of_one_pass_and_the_gradient_alone_needs_a_backward_one(tiny_model, batch):
    model = tiny_model()
    layers, given = target_layers(model, PROJECTIONS), [batch(4, 5)]
    all_kinds = frozenset(STATISTICS)
    together = calibrate(model, layers, given, CalibrationRequest(all_kinds))
    for kind in all_kinds:
        alone = getattr(calibrate(model, layers, given, CalibrationRequest(frozenset({kind}))), kind)
        assert alone.keys() == layers.keys()
        torch.testing.assert_close(getattr(together, kind), alone)
    backward = []
    model.lm_head.register_full_backward_hook(lambda *_: backward.append(1))
    calibrate(model, layers, given, CalibrationRequest(all_kinds - {"gradient", "output_fisher"}))
    assert not backward


def test_no_batches_is_an_error(tiny_model):
    with pytest.raises(ValueError, match="at least one batch"):
        calibrate(tiny_model(), {}, [], GRADIENT)


def test_a_model_whose_loss_is_not_finite_is_refused(tiny_model, batch):
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    for asked in (GRADIENT, wanted("gradient"), sketch_wanted(), CalibrationRequest(frozenset({"input_covariance"}))):
        with pytest.raises(ValueError, match="loss on the calibration samples is nan"):
            calibrate(model, target_layers(model, ("q_proj",)), [batch(2, 5)], asked)


@pytest.mark.parametrize("kind", [kind for kind in STATISTICS if kind != "gradient"])
def test_covariances_do_not_depend_on_how_samples_are_batched(tiny_model, batch, kind):
    model, whole = tiny_model(), batch(5, 6)
    layers = target_layers(model, ("up_proj",))
    halves = [{key: tensor[rows] for key, tensor in whole.items()} for rows in (slice(0, 2), slice(2, 5))]
    request = CalibrationRequest(frozenset({kind}))
    one, two = (getattr(calibrate(model, layers, batches, request), kind) for batches in ([whole], halves))
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_hooks_are_as_before_also_after_an_error(tiny_model, batch, training):
    model = tiny_model().train(training)

    def fail(*_):
        raise KeyError

    calibrate(model, target_layers(model, PROJECTIONS), [batch(2, 5)], GRADIENT)
    assert model.training == training
    with pytest.raises(KeyError):
        visit_gradients(model, target_layers(model, PROJECTIONS), batch(2, 5), fail)
    assert model.training == training
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_that_nothing_is_required_of_is_not_even_run(tiny_model):
    def unread():
        raise AssertionError("a batch was drawn")
        yield

    model = tiny_model()
    found = calibrate(model, target_layers(model, PROJECTIONS), unread(), CalibrationRequest())
    assert (found.gradient, found.input_covariance, found.facts.loss, found.facts.num_samples) == ({}, {}, None, 0)


def wanted(*decomposes, keeps=(), k=3, **settings):
    svd = replace(EXACT, **settings)
    return CalibrationRequest(frozenset(keeps), frozenset(decomposes), False, k, svd)


@pytest.mark.parametrize("place", ["memory", "host", "scratch"])
def test_where_totals_wait_does_not_change_a_bit(tiny_model, batch, monkeypatch, place):
    model, batches = tiny_model(), [batch(3, 7, seed=1), batch(2, 5, seed=2), batch(2, 6, seed=3)]
    layers = target_layers(model, PROJECTIONS)
    everything = CalibrationRequest(frozenset(STATISTICS))
    expected = calibrate(model, layers, batches, everything)
    assert expected.facts.place == "memory"  # of a model as small as this
    monkeypatch.setattr("bench.init.calibrate.collect.choose_place", lambda *_: place)
    found = calibrate(model, layers, batches, everything)
    assert found.facts.place == place
    for kind in everything.matrices:
        torch.testing.assert_close(getattr(found, kind), getattr(expected, kind), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("sum_bytes", "weight_bytes", "device", "place"),
    [
        (2**20, 2**20, "cpu", "memory"),  # small absolutely
        (150 * 2**20, 2000 * 2**20, "cpu", "memory"),  # below 15 % of the weights
        (361 * 2**20, 361 * 2**20, "cpu", "scratch"),
        (361 * 2**20, 181 * 2**20, "cuda", "host"),
        (2**60, 2**59, "cuda", "scratch"),  # more than the host has
    ],
)
def test_totals_wait_in_memory_only_where_they_are_small(sum_bytes, weight_bytes, device, place):
    assert choose_place(sum_bytes, weight_bytes, torch.device(device)) == place


def test_a_scratch_folder_goes_when_its_totals_go():
    sums = InScratchFiles()
    sums.put(("gradient", "a"), torch.arange(6.0).reshape(2, 3))
    folder = sums._folder.name
    assert torch.equal(sums.take(("gradient", "a")), torch.arange(6.0).reshape(2, 3))
    assert sums.take(("gradient", "b")) is None
    del sums
    gc.collect()
    assert not Path(folder).exists()


@pytest.mark.parametrize("of", ["gradient", "gradient_sign", "weight"])
def test_triplets_are_those_of_the_matrix_and_the_matrix_is_not_kept(tiny_model, batch, of):
    model, batches = tiny_model(), [batch(3, 7, seed=1), batch(2, 5, seed=2)]
    layers = target_layers(model, PROJECTIONS)
    gradients = calibrate(model, layers, batches, GRADIENT).gradient
    found = calibrate(model, layers, batches, wanted(of))
    assert (found.gradient, found.svds.keys()) == ({}, {of})
    assert (found.facts.loss is None) == (of == "weight")
    for name, layer in layers.items():
        matrix = {"gradient": gradients[name], "gradient_sign": gradients[name].sign(), "weight": layer.weight}[of]
        expected = exact_svd(matrix.detach()).leading(3)
        torch.testing.assert_close(found.svds[of][name].S, expected.S)
        torch.testing.assert_close(found.svds[of][name].U, expected.U, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found.svds[of][name].Vh, expected.Vh, rtol=1e-3, atol=1e-4)


def test_a_wider_decomposition_keeps_more_triplets_and_none_fewer_than_are_needed(tiny_model, batch):
    model = tiny_model()
    layers = target_layers(model, ("up_proj",))
    for rank, width in ((1, 3), (5, 5), (100, 24)):
        found = calibrate(model, layers, [batch(3, 7)], wanted("weight", rank=rank)).svds["weight"]
        assert {len(svd.S) for svd in found.values()} == {width}


def test_one_layers_gradient_is_at_hand_at_a_time_and_one_batch_leaves_no_totals(tiny_model, batch, monkeypatch):
    model, alive, most = tiny_model(), [], []

    def formed(*arguments):
        gradient = weight_gradient(*arguments)
        alive.append(weakref.ref(gradient))
        most.append(sum(ref() is not None for ref in alive))
        return gradient

    monkeypatch.setattr("bench.init.calibrate.collect.weight_gradient", formed)
    found = calibrate(model, target_layers(model, PROJECTIONS), [batch(3, 7)], wanted("gradient"))
    assert (found.facts.place, found.gradient) == (None, {})
    assert len(alive) == 14
    assert max(most) <= 2  # the one that is being formed, and the one before


@pytest.mark.parametrize("size", [1, 2, 4])
def test_halved_batches_give_the_gradient_of_the_whole_ones(tiny_model, batch, size):
    model, batches = tiny_model(), [batch(4, 7, seed=1), batch(3, 5, seed=2)]
    batches[0]["labels"][0, 2:5] = -100  # pieces differ in label tokens
    layers = target_layers(model, PROJECTIONS)
    expected = calibrate(model, layers, batches, GRADIENT)
    found = Collector(model, layers, GRADIENT).run(split(batches, Cutter(model), size), False)
    assert found.facts.loss == pytest.approx(expected.facts.loss, rel=1e-6)
    assert found.facts.num_samples == 7
    assert_nearly(found.gradient, expected.gradient)


def test_a_piece_without_a_label_token_has_no_share(tiny_model, batch):
    given = batch(3, 6)
    given["labels"][1] = -100
    pieces = split([given, batch(2, 6)], Cutter(tiny_model()), 1)
    assert [piece.weight for piece in pieces] == [0.25, 0.25, 0.25, 0.25]


def out_of_memory(model, most):
    """Makes a forward pass of more than `most` samples fail as torch does without memory."""

    def check(_module, _args, kwargs):
        if len(kwargs["input_ids"]) > most:
            message = "[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes."
            raise RuntimeError(message)

    return model.register_forward_pre_hook(check, with_kwargs=True)


def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_says_so(tiny_model, batch):
    model, batches = tiny_model(), [batch(5, 7, seed=1), batch(5, 7, seed=2)]
    layers = target_layers(model, PROJECTIONS)
    expected = calibrate(model, layers, batches, GRADIENT)
    hook = out_of_memory(model, 1)
    with pytest.warns(UserWarning, match="do not fit into memory") as warned:
        found = calibrate(model, layers, batches, GRADIENT)
    hook.remove()
    messages = [str(warning.message) for warning in warned]
    assert [message.split()[0] for message in messages] == ["5", "2"]
    assert messages[0].endswith("4096 bytes could not be had); going on with 2")
    assert (expected.facts.batch_size, found.facts.batch_size) == (5, 1)
    assert_nearly(found.gradient, expected.gradient)


def failing(tiny_model, message):
    """A model whose layer 1 cannot be computed."""

    def fail(*_):
        raise RuntimeError(message)

    model = tiny_model()
    model.model.layers[1].mlp.up_proj.register_forward_hook(fail)
    return model, target_layers(model, PROJECTIONS)


def test_one_sample_that_does_not_fit_is_an_error_with_layer_and_bytes(tiny_model, batch):
    model, layers = failing(tiny_model, "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free")
    with (
        pytest.raises(ValueError, match=r"one sample a pass: at model\.layers\.1\.mlp\.up_proj, 2\.00 GiB could not"),
        pytest.warns(UserWarning, match="going on with 1"),
    ):
        calibrate(model, layers, [batch(2, 5)], GRADIENT)


def test_another_error_is_not_taken_for_a_want_of_memory(tiny_model, batch):
    model, layers = failing(tiny_model, "something else")
    with pytest.raises(RuntimeError, match="something else"):
        calibrate(model, layers, [batch(2, 5)], GRADIENT)


@pytest.mark.parametrize("frozen", [True, False])
def test_checkpointing_computes_twice_and_changes_nothing(tiny_model, batch, frozen):
    model, batches = tiny_model().eval().requires_grad_(not frozen), [batch(3, 7, seed=1), batch(2, 5, seed=2)]
    layers = target_layers(model, PROJECTIONS)
    expected = calibrate(model, layers, batches, GRADIENT)
    passes = []
    hook = model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: passes.append(1))
    found = calibrate(model, layers, batches, GRADIENT, checkpointing=True)
    hook.remove()
    assert len(passes) == 4
    torch.testing.assert_close(found.gradient, expected.gradient, rtol=1e-5, atol=1e-8)
    assert not model.is_gradient_checkpointing
    assert not any(module.training for module in model.model.layers)
    assert model.config.use_cache


def test_checkpointing_keeps_no_layers_input_from_the_forward_pass(tiny_model, batch):
    model, kept = tiny_model(), []
    understands_packing(model)  # which calls the model
    layers = target_layers(model, ("down_proj",))
    layers["model.layers.0.mlp.down_proj"].register_forward_pre_hook(
        lambda _m, args: kept.append(StorageWeakRef(args[0].untyped_storage()))
    )
    at_the_end = []
    model.lm_head.register_forward_hook(lambda *_: at_the_end.append(not kept[0].expired()))
    for checkpointing in (False, True):
        kept.clear()
        calibrate(model, layers, [batch(3, 7)], GRADIENT, checkpointing=checkpointing)
    assert at_the_end == [True, False]


def test_checkpointing_a_model_with_dropout_is_refused(tiny_model, batch):
    model = tiny_model()
    model.config.attention_dropout = 0.1
    with pytest.raises(ValueError, match=r"without dropout; set task\.calibration_checkpointing=false"):
        calibrate(model, target_layers(model, PROJECTIONS), [batch(2, 5)], GRADIENT, checkpointing=True)


def test_a_module_used_twice_gets_the_sum_of_both_uses(tiny_model, batch):
    model, given = tiny_model(), batch(3, 7)
    model.model.layers[1] = model.model.layers[0]
    layers = target_layers(model, ("up_proj",))
    expected = gradients_by_autograd(model, layers, given)
    found = calibrate(model, layers, [given], GRADIENT).gradient
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def sketch_wanted(k=3, **settings):
    return replace(wanted("gradient", k=k, **settings), sketched=True)


def test_a_sketch_forms_no_gradient_and_finds_its_leading_directions(tiny_model, batch, monkeypatch):
    model, batches = tiny_model(), [batch(3, 7, seed=1), batch(2, 5, seed=2)]
    layers = target_layers(model, PROJECTIONS)
    expected = calibrate(model, layers, batches, wanted("gradient"))

    def refuse(*_):
        raise AssertionError("a gradient was formed")

    monkeypatch.setattr("bench.init.calibrate.collect.weight_gradient", refuse)
    found = calibrate(model, layers, batches, sketch_wanted(sketch_bound=1.0))
    assert found.facts.exact_layers == []
    wider = calibrate(model, layers, batches, sketch_wanted(sketch_bound=1.0, rank=7))
    assert {len(svd.S) for svd in wider.svds["gradient"].values()} == {7}
    for name in layers:
        one, other = found.svds["gradient"][name], expected.svds["gradient"][name]
        torch.testing.assert_close(one.S, other.S, rtol=1e-2, atol=0)
        assert (one.Vh - one.Vh @ other.Vh.T @ other.Vh).norm() < 0.05


def test_experts_are_not_sketched_by_several_processes(tiny_model, monkeypatch):
    monkeypatch.setattr("bench.process.ranks.size", lambda: 2)
    layers = {"layers.0.experts.3.up_proj": torch.nn.Linear(3, 4)}
    with pytest.raises(ValueError, match=r"by 2 processes for experts \(layers\.0\.experts\.3\.up_proj"):
        calibrate(tiny_model(), layers, [], sketch_wanted())


def test_a_layer_whose_sketch_is_too_rough_is_computed_exactly_and_named(tiny_model, batch):
    model, batches = tiny_model(), [batch(6, 12, seed=1), batch(6, 12, seed=2)]
    layers = target_layers(model, PROJECTIONS)
    sketched = calibrate(model, layers, batches, sketch_wanted(sketch_bound=1.0))
    errors = {name: svd.error for name, svd in sketched.svds["gradient"].items()}
    bound = sorted(errors.values())[7]
    with pytest.warns(UserWarning, match="the sketch of 6 of 14 layers"):
        found = calibrate(model, layers, batches, sketch_wanted(sketch_bound=bound))
    exact = calibrate(model, layers, batches, wanted("gradient")).svds["gradient"]
    assert set(found.facts.exact_layers) == {name for name, error in errors.items() if error > bound}
    for name, svd in found.svds["gradient"].items():
        expected = exact if name in found.facts.exact_layers else sketched.svds["gradient"]
        assert torch.equal(svd.Vh, expected[name].Vh)


def test_an_entry_gives_the_calibration_back_bit_by_bit(tiny_model, batch):
    model, batches = tiny_model(), [batch(3, 7, seed=1), batch(2, 5, seed=2)]
    everything = wanted("gradient", "weight", keeps=("input_covariance",))
    found = calibrate(model, target_layers(model, PROJECTIONS), batches, everything)
    tensors, facts = found.to_entry()
    again = Calibration.from_entry(tensors, json.loads(json.dumps(facts)))
    assert again.to_entry()[1] == facts
    torch.testing.assert_close(again.to_entry()[0], tensors, rtol=0, atol=0)
    assert again.facts == found.facts


def test_the_cost_is_split_into_its_parts(tiny_model, batch):
    model = tiny_model()
    found = calibrate(model, target_layers(model, PROJECTIONS), [batch(3, 7), batch(3, 7)], wanted("gradient"))
    assert found.facts.seconds.keys() == {"forward", "backward", "gradient", "svd", "storage"}
    assert all(seconds > 0 for seconds in found.facts.seconds.values())
    assert found.recorded(read=False).total_seconds == sum(found.facts.seconds.values())


KEYED = {
    "revision": lambda given: given | {"loaded": replace(given["loaded"], revision="other")},
    "layers": lambda given: given | {"layers": target_layers(given["loaded"].model, ("q_proj",))},
    "dtype": lambda given: (
        given | {"loaded": replace(given["loaded"], model=copy.deepcopy(given["loaded"].model).to(torch.bfloat16))}
    ),
    "samples": lambda given: given | {"task": of_samples(given["task"].calibration[:1])},
    "tokens": lambda given: given | {"task": of_samples(2 * given["task"].calibration[:1])},
    "solver": lambda given: given | {"request": wanted("gradient", solver="randomized")},
    "width": lambda given: given | {"request": wanted("gradient", rank=9)},
    "matrix": lambda given: given | {"request": wanted("gradient_sign")},
    "sketch": lambda given: given | {"request": sketch_wanted()},
    "environment": lambda given: given | {"environment": "other"},
}


def of_samples(batches):
    return SimpleNamespace(calibration=batches, calibration_ids=[0, 1], calibration_checkpointing=False)


@pytest.fixture
def keyed(tiny_model, batch):
    model, task = tiny_model(), of_samples([batch(2, 5, seed=1), batch(2, 5, seed=2)])
    layers, loaded = target_layers(model, PROJECTIONS), LoadedModel(model, None, "abc")
    return {"loaded": loaded, "layers": layers, "task": task, "request": wanted("gradient"), "environment": "e"}


@pytest.mark.parametrize("what", KEYED)
def test_a_key_changes_with_all_that_the_numbers_depend_on(keyed, what):
    assert key(**KEYED[what](keyed)) != key(**keyed)


def test_a_rank_that_the_stated_width_covers_has_the_same_key(keyed):
    one, two = (key(**keyed | {"request": wanted("gradient", k=k, rank=8)}) for k in (3, 8))
    assert one == two
    assert key(**keyed | {"request": wanted("gradient", k=9, rank=8)}) != one


def test_weights_are_decomposed_for_all_samples_alike(keyed):
    of_weights = keyed | {"request": wanted("weight")}
    assert key(**of_weights) == key(**of_weights | {"task": of_samples(keyed["task"].calibration[:1])})


def test_what_a_method_wants(compose_method):
    rank, svd = Rank("r4", 4, 8), replace(EXACT, rank=2)
    asked = {
        name: CalibrationRequest.of(compose_method(name, *options), rank, svd)
        for name, *options in (
            ["hu"], ["full_ft"], ["corda"], ["lora_ga"], ["lora_one"], ["lora_xs"], ["lora_sb"], ["pissa"]
        )
    }  # fmt: skip
    assert asked["hu"] == asked["full_ft"] == CalibrationRequest()
    assert asked["corda"] == CalibrationRequest(matrices=frozenset({"input_covariance"}))
    assert asked["lora_ga"] == CalibrationRequest(svds=frozenset({"gradient"}), num_singular=8, svd=svd)
    assert asked["lora_one"] == CalibrationRequest(svds=frozenset({"gradient"}), num_singular=4, svd=svd)
    assert asked["lora_sb"] == CalibrationRequest(svds=frozenset({"gradient_sign"}), num_singular=4, svd=svd)
    assert asked["lora_xs"] == asked["pissa"] == CalibrationRequest(svds=frozenset({"weight"}), num_singular=4, svd=svd)
    official = CalibrationRequest.of(compose_method("lora_sb", "method.variant=official"), rank, svd)
    assert (official.matrices, official.svds) == ({"gradient"}, frozenset())
    assert CalibrationRequest.of(compose_method("lora_one", "method.gradient=sketch"), rank, svd).sketched
    assert CalibrationRequest.of(compose_method("lora_xs", "method.basis=random"), rank, svd).svds == frozenset()


@pytest.mark.parametrize(("revision", "kept"), [("abc", 1), (UNKNOWN, 0)])
def test_weights_of_unknown_origin_are_calibrated_each_time(tiny_model, batch, tmp_path, revision, kept):
    model = tiny_model()
    task = of_samples([batch(2, 5)])
    cache, loaded = Cache(enabled=True, dir=tmp_path, max_gb=1), LoadedModel(model, None, revision)
    layers = target_layers(model, ("q_proj",))
    reads = [shared(loaded, layers, task, wanted("gradient"), cache)[1] for _ in range(2)]
    assert reads == [False, bool(kept)]
    assert len(entries(tmp_path)) == kept
