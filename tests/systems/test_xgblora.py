import shutil

import pytest
import torch
from safetensors.torch import load_file

from bench.runs.checkpoint import Checkpointing, Checkpoints
from bench.systems.base import Clock
from bench.systems.none import NO_SYSTEM
from bench.systems.xgblora import block
from bench.train.systems import STATE
from built_methods import built
from models import tiny_llama
from systems_built import built_system, host
from two_trainings import Case, Logbook, trained

S = 2.0  # of rank r2 in two_trainings
RATE = 1e-2
LAYER = "base_model.model.{}.base_layer.weight"


def run(tmp_path=None, model=tiny_llama, steps=5, system=NO_SYSTEM, resume=False):
    settings = {"max_steps": steps, "eval_steps": 0, "lr_scheduler_type": "constant", "max_grad_norm": 1e9}
    checkpoints = tmp_path and Checkpoints(tmp_path, Checkpointing(minutes=5, steps=1, keep=9), {"num_processes": 1})
    logbook = Logbook(checkpoints, checkpoints.newest() if resume else None)
    return trained(Case(model, built("hu"), settings=settings, system=system), "ddp", logbook)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weight_is_the_pretrained_one_and_all_boosters_rounded_once(tmp_path, dtype):
    def model():
        return tiny_llama().to(dtype)

    found, plain = run(tmp_path, model, system=built_system("xgblora", steps_a_round=2)), run(model=model)
    boosters = load_file(tmp_path / "checkpoint-5" / STATE)
    assert len(boosters) == 2 * 14
    for name in {key.rpartition("/")[0] for key in boosters}:
        A, B = boosters[f"{name}/A"], boosters[f"{name}/B"]
        assert A.shape[0] == B.shape[1] == 2
        change = B @ A
        assert torch.linalg.matrix_rank(change) == 2
        pretrained, base = (one["weights"][LAYER.format(name)] for one in (plain, found))
        assert torch.equal(base, torch.sub(pretrained.float(), -B @ A, alpha=S).to(dtype))
        assert not torch.equal(base, pretrained)


def test_one_round_over_all_layers_is_lora(tmp_path):
    found, plain = run(system=built_system("xgblora", r=2, steps_a_round=5)), run()
    assert found["loss"] == plain["loss"]
    assert all(torch.equal(found["weights"][name], tensor) for name, tensor in plain["weights"].items())


def test_a_merge_does_not_change_the_loss(tmp_path):
    one, two = (run(tmp_path / str(k), steps=3, system=built_system("xgblora", steps_a_round=k)) for k in (2, 3))
    assert one["loss"][:2] == two["loss"][:2]
    assert one["loss"][2] == pytest.approx(two["loss"][2], rel=1e-6)  # after step 2: merged, and not


def test_each_round_begins_adam_anew(tmp_path):
    run(tmp_path, steps=4, system=built_system("xgblora", steps_a_round=1))
    boosters = load_file(tmp_path / "checkpoint-4" / STATE)
    for name, tensor in boosters.items():
        if name.endswith("/B"):
            assert tensor.shape[1] == 3  # the last round is not merged
            reached = tensor[tensor.abs() > 0.5 * RATE]
            assert len(reached) > 0.9 * tensor.numel()
            assert reached.abs().max() < 1.001 * RATE


def test_a_round_trains_whole_blocks_drawn_anew_and_leaves_the_others_alone(tmp_path):
    system = built_system("xgblora", steps_a_round=1, num_blocks=1)
    names = [f"model.layers.{i}.{part}" for i in range(4) for part in ("self_attn.q_proj", "mlp.up_proj")]
    drawn = [system.active(names, Clock(step, 90, 1e-3, 0)) for step in range(1, 30)]
    assert all(len(one) == 2 and len({*map(block, one)}) == 1 for one in drawn)
    assert len({tuple(one) for one in drawn}) == 4
    longer = built_system("xgblora", steps_a_round=3, num_blocks=1)
    of_rounds = [[tuple(longer.active(names, Clock(3 * k + i, 90, 1e-3, 0))) for i in (1, 2, 3)] for k in range(9)]
    assert all(len({*one}) == 1 for one in of_rounds)
    assert list(built_system("xgblora").active(names, Clock(1, 90, 1e-3, 0))) == names
    run(tmp_path, steps=2, system=system)
    state = load_file(tmp_path / "checkpoint-2" / STATE)
    assert len({block(name) for name in state}) == 1
    trained_ones = load_file(tmp_path / "checkpoint-1" / "trained.safetensors")
    assert {tensor.any().item() for name, tensor in trained_ones.items() if "lora_B" in name} == {False}  # new ones


def test_a_training_gone_on_with_between_two_rounds_ends_with_the_same_bits(tmp_path):
    system = built_system("xgblora", steps_a_round=2)
    once = run(tmp_path, lambda: tiny_llama().bfloat16(), system=system)
    for step in (3, 4, 5):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    again = run(tmp_path, lambda: tiny_llama().bfloat16(), system=system, resume=True)
    assert again["loss"] == once["loss"]
    assert all(torch.equal(again["weights"][name], tensor) for name, tensor in once["weights"].items())


def test_a_round_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match=r"steps_a_round=32 is longer than the run, train\.max_steps=31; take fewer"):
        built_system("xgblora").check(host(max_steps=31))
