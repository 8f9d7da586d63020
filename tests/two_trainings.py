"""Short trainings that two processes share, or one does: what they leave, for test_parallel_training.py."""

import os
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from bench.methods.base import PLAIN, AdapterOptions, Rank
from bench.process import ranks
from bench.runs.checkpoint import Checkpointing, Checkpoints
from bench.systems.none import NO_SYSTEM
from bench.tasks.examples import IGNORED, Example, collate
from bench.train import Train, train
from bench.train.probe import AlignmentProbe, Measure
from built_methods import built
from models import PAD, tiny_bert, tiny_llama, tiny_t5
from starts import start
from systems_built import built_system

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SETTINGS = {
    "max_steps": 4, "batch_size": 4, "gradient_accumulation_steps": 1, "learning_rate": 1e-2,
    "lr_scheduler_type": "linear", "warmup_steps": 0, "weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.999,
    "adam_epsilon": 1e-8, "max_grad_norm": 1.0, "eval_steps": 2, "precision": "fp32",
}  # fmt: skip


def examples(kind, count=48):
    """Random examples of different lengths, for a causal model, an encoder or a sequence-to-sequence model."""
    generator = torch.Generator().manual_seed(3)

    def drawn(low, high, length=1):
        return torch.randint(low, high, (length,), generator=generator).tolist()

    def one():
        ids = drawn(4, 50, *drawn(6, 14))
        if kind == "encoder":
            return Example(ids, *drawn(0, 2))
        if kind == "seq2seq":
            return Example(ids, drawn(4, 50, *drawn(2, 7)))
        prompt = drawn(1, 4)[0]
        return Example(ids, [IGNORED] * prompt + ids[prompt:])

    return [one() for _ in range(count)]


def bert():
    """Without dropout, whose masks would differ."""
    return tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


@dataclass(frozen=True)
class Case:
    """One training: of which model by which method and system."""

    model: object
    method: object
    kind: str = "causal"
    options: AdapterOptions = PLAIN
    settings: dict = field(default_factory=dict)
    system: object = NO_SYSTEM


HALVES = {"batch_size": 2, "gradient_accumulation_steps": 2}
CASES = {
    "hu": Case(tiny_llama, built("hu")),
    "hu accumulated": Case(tiny_llama, built("hu"), settings=HALVES),
    "lora_sb": Case(tiny_llama, built("lora_sb")),
    "full_ft accumulated": Case(tiny_llama, built("full_ft"), settings=HALVES),
    "dora": Case(tiny_llama, built("hu"), options=replace(PLAIN, use_dora=True)),
    "loraplus": Case(tiny_llama, built("hu"), options=replace(PLAIN, loraplus_lr_ratio=4.0)),
    "bfloat16 base": Case(lambda: tiny_llama().bfloat16(), built("hu")),
    "encoder": Case(bert, built("hu"), "encoder"),
    "encoder accumulated": Case(bert, built("hu"), "encoder", settings=HALVES),
    "seq2seq": Case(lambda: tiny_t5(dropout_rate=0.0), built("hu"), "seq2seq"),
    "seq2seq accumulated": Case(lambda: tiny_t5(dropout_rate=0.0), built("hu"), "seq2seq", settings=HALVES),
}
CASES |= {
    "lora_pro": Case(tiny_llama, built("orthogonal"), system=built_system("lora_pro")),
    "adalora": Case(tiny_llama, built("hu"), system=built_system("adalora", rank_r=2, initial=0.25, final=0.25)),
    "kasa accumulated": Case(tiny_llama, built("hu"), settings=HALVES, system=built_system("kasa")),
    "flat_lora accumulated": Case(tiny_llama, built("hu"), settings=HALVES, system=built_system("flat_lora")),
    "xgblora": Case(tiny_llama, built("hu"), system=built_system("xgblora", steps_a_round=2)),
}
CARRIED = ["lora_pro", "adalora", "kasa accumulated", "flat_lora accumulated", "xgblora"]
SHARDED = ["lora_sb", "full_ft accumulated", "dora", "loraplus", "bfloat16 base", "encoder"]
REPLICATED = ["hu", "lora_sb", "full_ft accumulated", "encoder accumulated", "seq2seq accumulated"]
# Dropout is on in these: a head, and each process's random stream, have to come back as well.
RESUMED = {"head": Case(tiny_bert, built("hu"), "encoder"), "whole": Case(tiny_llama, built("full_ft"))}


class Logbook:
    """Keeps what a training tells, and its checkpoints where it is given a folder."""

    def __init__(self, checkpoints=None, found=None):
        self.checkpoints, self.resume_from, self.stop_at_step = checkpoints, found, None
        self.rows, self.alignment = [], []

    def log(self, row, alignment):
        self.rows += [dict(row)] if row else []
        self.alignment += [asdict(measured) for measured in alignment]

    def restart(self, curve, alignment):
        self.rows, self.alignment = list(curve), [asdict(measured) for measured in alignment]

    def step(self, number, num_steps, seconds):
        """Nobody is told."""


def trained(case, how, logbook=None):
    """Losses, norms, alignment and weights of one training, laid over the processes as `how` says."""
    data, logbook = examples(case.kind), logbook or Logbook()
    calibration = [collate(data[20:24], PAD), collate(data[24:28], PAD)]
    targets = PROJECTIONS if case.kind == "causal" else None
    rank, system = Rank("r2", 2, 4), case.system
    begun = start(case.model(), case.method, rank, targets, calibration, options=case.options, system=system)
    # Seven validation examples: the last batch is uneven, and its last pair is one example.
    task = SimpleNamespace(train=data[:20], eval_examples=data[30:37], pad_token_id=PAD)
    batch = collate(data[40:44], PAD)
    norms = begun.weight_norms
    probe = AlignmentProbe(Measure(alignment_steps=2), begun.layers, begun.factors, norms, batch, system=system)
    ratio = case.options and case.options.loraplus_lr_ratio
    train(begun.model, task, Train(**SETTINGS | case.settings, parallel=how), ratio, 0, probe, logbook, system)
    return {
        "loss": [row["loss"] for row in logbook.rows],
        "grad_norm": [float(row["grad_norm"]) for row in logbook.rows],
        "eval_loss": [row["eval_loss"] for row in logbook.rows if "eval_loss" in row],
        "alignment": logbook.alignment,
        "weights": {name: p.detach().clone() for name, p in begun.model.named_parameters()},
    }


def resumed(case, how, folder):
    """A training with checkpoints, and what is left if it is gone on with from the one in the middle."""
    checkpoints = Checkpoints(folder, Checkpointing(minutes=5, steps=2, keep=9), {"num_processes": ranks.size()})
    once = trained(case, how, Logbook(checkpoints))
    if ranks.rank() == 0:
        shutil.rmtree(folder / "checkpoint-4")
    found = ranks.broadcast_object(checkpoints.newest() if ranks.rank() == 0 else None)
    assert found.step == 2
    return once, trained(case, how, Logbook(checkpoints, found))


def process(rank, folder, port):
    """One of two: leaves what it found in a file."""
    torch.set_num_threads(1)
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in told.items()} | {"MASTER_ADDR": "127.0.0.1"}  # as torchrun does
    ranks.start()
    found = {("ddp", name): trained(CASES[name], "ddp") for name in REPLICATED}
    found |= {("fsdp", name): trained(CASES[name], "fsdp") for name in SHARDED}
    for how in ("ddp", "fsdp"):
        for name, case in RESUMED.items():
            found[how, "resumed", name] = resumed(case, how, Path(folder, f"{how}-{name}"))
    for name in CARRIED:
        found["ddp", "resumed", name] = found["ddp", name], _ = resumed(CASES[name], "ddp", Path(folder, name))
    found["sharded"] = shares(tiny_llama())
    torch.save(found, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def shares(model):
    """Of a model in training with FSDP: how many of its parameters are sharded, and the bytes the whole still holds."""
    from bench.train import sharding

    seen = []

    def looking(self):
        release(self)
        parts = [isinstance(p, DTensor) for p in self.trained.parameters()]
        seen.append((sum(parts), len(parts), sum(p.numel() for p in self.model.parameters())))

    release, sharding.ShardedLayout._release = sharding.ShardedLayout._release, looking
    try:
        trained(Case(lambda: model, built("full_ft")), "fsdp")
    finally:
        sharding.ShardedLayout._release = release
    return seen[0]
