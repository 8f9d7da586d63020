"""What test_parallel.py has two processes do: this module, unlike a test's, can be imported by a process it starts."""

from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist

from bench.init.calibrate import CalibrationRequest, calibrate
from bench.init.calibrate.result import STATISTICS
from bench.methods.base import Rank
from bench.methods.svd import EXACT
from bench.model.layers import target_layers
from bench.process import ranks
from built_methods import built
from models import random_batch, tiny_albert, tiny_deberta, tiny_llama, tiny_switch
from starts import start

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SVD = replace(EXACT, rank=5)
METHODS = {
    "hu": built("hu"),
    "lora_ga": built("lora_ga"),
    "lora_ga sketched": built("lora_ga", gradient="sketch"),
    "lora_sb": built("lora_sb"),
    "lora_sb official": built("lora_sb", variant="official"),
    "eva": built("eva"),
    "milora": built("milora"),
    "astra": built("astra"),
    "gora": built("gora"),
    "pissa": built("pissa"),
}


def uneven_batches():
    """Three batches of different sizes; one sample has fewer label tokens than the others."""
    batches = [random_batch(4, 7, seed=1), random_batch(3, 5, seed=2), random_batch(1, 9, seed=3)]
    batches[0]["labels"][0, 2:5] = -100
    return batches


def found(batches):
    """Factors of each method, losses, and statistics, by name."""
    results = {}
    for name, method in METHODS.items():
        begun = start(tiny_llama(), method, Rank("r2", 2, 4), PROJECTIONS, batches, svd=SVD)
        for layer, factors in begun.factors.items():
            results |= {f"{name}/{layer}/{part}": value for part, value in vars(factors).items() if value is not None}
        if begun.facts.calibration and begun.facts.calibration.loss:
            results[f"{name}/loss"] = torch.tensor(begun.facts.calibration.loss)
    model = tiny_llama()
    everything = CalibrationRequest(frozenset(STATISTICS))
    statistics = calibrate(model, target_layers(model, PROJECTIONS), batches, everything)
    for kind in everything.matrices:
        results |= {f"{kind}/{layer}": matrix for layer, matrix in getattr(statistics, kind).items()}
    # A layer called three times; relative positions, which need one sample a pass; experts that one process reaches.
    for model in (tiny_albert(), tiny_deberta(), tiny_switch()):
        given = [classified(batch) for batch in batches] if not model.config.is_encoder_decoder else batches
        statistics = calibrate(model, target_layers(model, None), given, everything)
        for kind in everything.matrices:
            named = {f"{type(model).__name__} {kind}/{layer}": m for layer, m in getattr(statistics, kind).items()}
            results |= named
    return results


def classified(batch):
    """The same samples with a class each."""
    return batch | {"labels": torch.arange(len(batch["input_ids"])) % 2}


def process(rank, folder):
    """One of two: leaves what it found in a file."""
    torch.set_num_threads(1)
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=2, timeout=timedelta(seconds=120))
    computed = []
    handed = ranks.map_over_ranks(["a", "b", "c"], lambda name: computed.append(name) or f"{name} by {rank}")
    torch.save([found(uneven_batches()), found([random_batch(3, 7)]), computed, handed], folder / f"{rank}.pt")
    dist.destroy_process_group()
