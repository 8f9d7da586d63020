"""How a training carries a system: what each hook is handed, and what becomes of what it returns."""

import functools
import shutil
from dataclasses import dataclass, replace

import pytest
import torch

from bench.runs.checkpoint import Checkpointing, Checkpoints
from bench.study.folders import CONF
from bench.systems.base import System
from bench.systems.none import NO_SYSTEM
from built_methods import built
from models import tiny_llama
from systems_built import built_system
from two_trainings import HALVES, Case, Logbook, trained

SETTINGS = {"max_grad_norm": 1e9, "lr_scheduler_type": "constant"}
ONE = SETTINGS | {"max_steps": 1}


def run(system=NO_SYSTEM, method="hu", model=tiny_llama, **settings):
    logbook = Logbook()
    found = trained(Case(model, built(method), settings=SETTINGS | settings, system=system), "ddp", logbook)
    return found | {"rows": logbook.rows}


def part_of(found, part):
    return {name: tensor for name, tensor in found["weights"].items() if f".{part}." in name}


@dataclass(frozen=True)
class Spy(System):
    """Notes what it is handed."""

    label = "spy"
    maps_gradients = True

    def __post_init__(self):
        object.__setattr__(self, "seen", [])
        object.__setattr__(self, "after", [])

    def gradients(self, pair):
        if pair.name:  # the alignment measures' has none
            self.seen.append((pair.name, {part: g.clone() for part, g in pair.gradients.items()}))
        return pair.gradients

    def after_step(self, pairs, state, clock):
        self.after.append((clock.step, clock.learning_rate, all(len(pair.gradients) == 2 for pair in pairs)))


def test_every_layer_is_handed_its_gradients_once_a_step_and_the_step_is_counted_from_one():
    spy = Spy()
    found, plain = run(spy, max_steps=3), run(max_steps=3)
    assert found["loss"] == plain["loss"]
    assert all(torch.equal(found["weights"][name], tensor) for name, tensor in plain["weights"].items())
    assert len(spy.seen) == 3 * 14
    assert spy.after == [(1, 1e-2, True), (2, 1e-2, True), (3, 1e-2, True)]


class OnlyB(Spy):
    def gradients(self, pair):
        return {part: g if part == "lora_B" else torch.zeros_like(g) for part, g in pair.gradients.items()}


def test_adamw_steps_along_the_mapped_gradients():
    found, plain = run(OnlyB(), "orthogonal", **ONE), run(NO_SYSTEM, "orthogonal", **ONE)
    start = run(NO_SYSTEM, "orthogonal", **ONE | {"learning_rate": 1e-30})
    for name, tensor in part_of(plain, "lora_B").items():
        assert torch.equal(found["weights"][name], tensor)
    for name, tensor in part_of(start, "lora_A").items():
        assert torch.equal(found["weights"][name], tensor)
        assert not torch.equal(plain["weights"][name], tensor)


class Descending(Spy):
    def descent(self, pair, state, clock):
        return {part: 3 * gradient for part, gradient in pair.gradients.items()}


def test_a_direction_of_its_own_is_a_plain_step_with_decoupled_decay():
    spy = Descending()
    found = run(spy, "orthogonal", **ONE, weight_decay=0.1)
    start = run(NO_SYSTEM, "orthogonal", **ONE | {"learning_rate": 1e-30})
    gradients = {f"{name}.{part}": g for name, of in spy.seen for part, g in of.items()}
    checked = 0
    for part in ("lora_A", "lora_B"):
        for name, before in part_of(start, part).items():
            layer = name.removeprefix("base_model.model.").removesuffix(f".{part}.default.weight")
            expected = before - 1e-2 * (3 * gradients[f"{layer}.{part}"] + 0.1 * before)
            torch.testing.assert_close(found["weights"][name], expected, rtol=0, atol=1e-7)
            checked += 1
    assert checked == 28


class Penalised(Spy):
    def penalty(self, pairs):
        return 5 * sum(pair.tensors["lora_A"].square().sum() for pair in pairs)


@pytest.mark.parametrize("settings", [{}, HALVES], ids=["whole", "accumulated"])
def test_a_penalty_adds_its_gradient_once_a_step_and_nothing_to_the_logged_loss(settings):
    plain, spy = Spy(), Penalised()
    without, found = run(plain, "orthogonal", **ONE, **settings), run(spy, "orthogonal", **ONE, **settings)
    start = run(NO_SYSTEM, "orthogonal", **ONE | {"learning_rate": 1e-30})
    assert found["loss"] == without["loss"]
    total = 0.0
    for (name, gradients), (_, of_loss) in zip(spy.seen, plain.seen, strict=True):
        A = start["weights"][f"base_model.model.{name}.lora_A.default.weight"]
        torch.testing.assert_close(gradients["lora_A"] - of_loss["lora_A"], 10 * A, rtol=1e-4, atol=1e-5)
        assert torch.equal(gradients["lora_B"], of_loss["lora_B"])
        total += 5 * A.square().sum().item()
    assert found["rows"][0]["penalty"] == pytest.approx(total, rel=1e-5)
    assert "penalty" not in without["rows"][0]


class Noisy(Spy):
    adds_noise = True

    def noise(self, weight, layer, clock):
        return 0.05 * torch.randn(weight.shape, generator=clock.stream(f"noise/{layer}/{clock.step}", weight.device))


def test_noise_is_in_all_passes_of_a_step_and_leaves_the_weights_to_the_bit():
    found, plain = (run(one, model=lambda: tiny_llama().bfloat16(), max_steps=2) for one in (Noisy(), NO_SYSTEM))
    base = part_of(plain, "base_layer")
    assert len(base) == 14
    assert all(torch.equal(found["weights"][name], tensor) for name, tensor in base.items())
    assert all(one != other for one, other in zip(found["loss"], plain["loss"], strict=True))
    whole, halves = run(Noisy(), **ONE), run(Noisy(), **ONE | HALVES)
    assert whole["loss"] == pytest.approx(halves["loss"], rel=1e-5)
    assert whole["eval_loss"] == pytest.approx(halves["eval_loss"], rel=1e-5)


HOSTS = {"flora": "full_ft", "adalora": "hu", "sora": "hu", "kasa": "hu", "xgblora": "hu", "lora_fa": "hu"}
SYSTEMS = sorted(path.stem for path in (CONF / "system").glob("*.yaml"))
CARRIED = [(name, {}) for name in SYSTEMS if name != "none"]
CARRIED += [("adalora", {"interval": 2}), ("flora", {"compress": "accumulation"})]


def case_of(name, settings):
    small = {
        "adalora": {"target_r": 2, "initial": 0.2, "final": 0.2},
        "xgblora": {"steps_a_round": 2, "num_blocks": 1},
        "flora": {"r": 4, "kappa": 2},
        "velora": {"num_groups": 8},
    }.get(name, {})
    return Case(
        lambda: tiny_llama(attention_dropout=0.1),
        built(HOSTS.get(name, "orthogonal")),
        system=built_system(name, rank_r=2, **small | settings),
        settings={"max_steps": 5, "eval_steps": 0, "weight_decay": 0.01},
    )


@functools.cache
def without_a_system(method):
    return trained(replace(case_of("lora_pro", {}), method=built(method), system=NO_SYSTEM), "ddp")


@pytest.mark.parametrize(("name", "settings"), CARRIED)
def test_a_training_is_another_and_gone_on_with_after_an_odd_step_ends_with_the_same_bits(tmp_path, name, settings):
    case, plain = case_of(name, settings), without_a_system(HOSTS.get(name, "orthogonal"))
    checkpoints = Checkpoints(tmp_path, Checkpointing(minutes=5, steps=1, keep=9), {"num_processes": 1})
    once = trained(case, "ddp", Logbook(checkpoints))
    assert len({*once["loss"]}) == 5
    if case.system.keeps_function:
        assert once["loss"][0] == pytest.approx(plain["loss"][0], rel=1e-5)
    if name == "runlora":  # the same products in another order
        assert once["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    else:
        assert once["loss"][-1] != pytest.approx(plain["loss"][-1], rel=1e-6)
    for step in (4, 5):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    found = checkpoints.newest()
    assert found.step == 3
    again = trained(case, "ddp", Logbook(checkpoints, found))
    assert again["loss"] == once["loss"]
    assert again["alignment"] == once["alignment"]
    assert all(torch.equal(again["weights"][key], tensor) for key, tensor in once["weights"].items())
