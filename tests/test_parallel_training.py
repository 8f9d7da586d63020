"""Training that two gloo processes share against one alone: DDP, FSDP, checkpoints."""

import socket

import pytest
import torch

from bench.process import ranks, rng
from bench.train import Train, losses, sharding
from models import tiny_llama
from two_trainings import CARRIED, CASES, REPLICATED, RESUMED, SETTINGS, SHARDED, process, resumed, trained

LAID = [("ddp", name) for name in [*REPLICATED, *CARRIED]] + [("fsdp", name) for name in SHARDED]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of each of two processes."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(process, (folder, port), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone():
    """Of one process."""
    return {name: trained(case, "ddp") for name, case in CASES.items()}


def rounding(key, exact):
    """A relative tolerance: of a bfloat16 model two percent, as a process has other examples in a pass."""
    return 0.02 if "bfloat16" in key[1] else exact


@pytest.mark.parametrize("key", LAID, ids=" ".join)
def test_two_processes_have_the_losses_of_one(results, alone, key):
    two, one = results[0][key], alone[key[1]]
    for measure in ("loss", "grad_norm", "eval_loss"):
        assert two[measure] == pytest.approx(one[measure], rel=rounding(key, 1e-4)), measure
    assert len(two["loss"]) == 4
    assert len(two["eval_loss"]) == 2


@pytest.mark.parametrize("key", LAID, ids=" ".join)
def test_two_processes_measure_the_alignment_of_one(results, alone, key):
    two, one = results[0][key]["alignment"], alone[key[1]]["alignment"]
    assert {row["step"] for row in two} == {0, 2, 4}
    assert [(r["step"], r["layer"], r["measure"]) for r in two] == [(r["step"], r["layer"], r["measure"]) for r in one]
    pairs = zip(two, one, strict=True)
    if "bfloat16" in key[1]:  # Adam makes a step of a gradient that is nothing but rounding
        pairs = [(r, other) for r, other in pairs if r["step"] == 0]
    values = [(r["value"], other["value"]) for r, other in pairs]
    assert all((value is None) == (other is None) for value, other in values)
    rel = rounding(key, 1e-4)
    assert all(value == pytest.approx(other, rel=rel, abs=rel) for value, other in values if other is not None)


@pytest.mark.parametrize("key", LAID, ids=" ".join)
def test_both_processes_end_with_the_same_weights_to_the_bit(results, key):
    one, other = (result[key]["weights"] for result in results)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(tensor.numel() for tensor in one.values())


@pytest.mark.parametrize(
    ("how", "name"), [(how, name) for how in ("ddp", "fsdp") for name in RESUMED] + [("ddp", name) for name in CARRIED]
)
def test_two_processes_go_on_from_a_checkpoint_to_the_bit(results, how, name):
    for result in results:
        once, again = result[how, "resumed", name]
        assert again["loss"] == once["loss"]
        assert again["eval_loss"] == once["eval_loss"]
        assert all(torch.equal(once["weights"][key], again["weights"][key]) for key in once["weights"])


@pytest.mark.parametrize("name", RESUMED)
def test_one_process_goes_on_from_a_checkpoint_to_the_bit(tmp_path, name):
    once, again = resumed(RESUMED[name], "ddp", tmp_path)
    assert again["loss"] == once["loss"]
    assert all(torch.equal(once["weights"][key], again["weights"][key]) for key in once["weights"])


def test_fsdp_shards_every_parameter_and_the_whole_model_holds_none(results):
    num_sharded, num_parameters, num_held = results[0]["sharded"]
    assert num_sharded == num_parameters == 21
    assert num_held == 0


def test_dropout_differs_between_processes_and_not_between_one_and_the_first_of_many(monkeypatch, tmp_path):
    from bench.train.loop import arguments

    def seed(rank):
        monkeypatch.setattr(ranks, "rank", lambda: rank)
        return arguments(Train(**SETTINGS), 0, str(tmp_path)).seed

    assert len({seed(0), seed(1), seed(2)}) == 3
    assert seed(0) == rng.derive(0, "dropout") % 2**32


@pytest.mark.parametrize("name", ["hu", "encoder", "seq2seq"])
def test_accumulated_halves_have_the_losses_of_the_whole(alone, name):
    assert alone[f"{name} accumulated"]["loss"] == pytest.approx(alone[name]["loss"], rel=1e-4)


def test_fsdp_needs_several_processes():
    with pytest.raises(ValueError, match=r"train\.parallel=fsdp .* start several with torchrun"):
        sharding.layout(tiny_llama(), "fsdp")


def test_fsdp_refuses_quantised_weights(monkeypatch):
    monkeypatch.setattr(ranks, "size", lambda: 2)
    model = tiny_llama()
    weight = model.lm_head.weight
    model.lm_head.weight = torch.nn.Parameter(weight.detach().to(torch.uint8), requires_grad=False)
    with pytest.raises(ValueError, match=r"cannot shard quantised weights \(torch\.uint8\); take train\.parallel=ddp"):
        sharding.layout(model, "fsdp")


def test_fsdp_refuses_a_sequence_to_sequence_model_before_anything_is_loaded(compose_run):
    from bench.config import ConfigError

    with pytest.raises(ConfigError, match=r"train\.parallel=fsdp cannot shard a sequence-to-sequence model"):
        compose_run("method=hu", "model=t5_base", "task=glue/sst2", "train.parallel=fsdp")


def test_how_a_model_is_laid_over_processes_is_no_part_of_a_run(compose_run):
    runs = [compose_run("method=hu", f"train.parallel={how}") for how in ("ddp", "fsdp")]
    assert runs[0].run_id == runs[1].run_id
    assert "parallel" not in runs[0].identity["train"]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_eval_loss_is_the_mean_over_label_tokens_at_any_batch_size(size):
    from bench.tasks.examples import Example

    examples = [Example([1] * length, [-100] + [1] * (length - 1)) for length in (3, 5, 2)]

    def loss(examples):
        counted = sum(len(example.labels) - 1 for example in examples)
        return torch.tensor(float(sum((len(e.labels) - 1) ** 2 for e in examples)) / counted), torch.tensor(counted)

    # 2, 4 and 1 label tokens, each of a loss that equals their number.
    assert losses.eval_loss(examples, size, loss) == pytest.approx((4 + 16 + 1) / 7)
