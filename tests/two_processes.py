"""What test_parallel.py has two processes do: this module, unlike a test's, can be imported by a process it starts."""

from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist

from bench.init.calibrate import CalibrationRequest, calibrate
from bench.methods.base import Rank
from bench.methods.svd import EXACT
from bench.model.layers import target_layers
from bench.process import ranks
from built_methods import built
from models import random_batch, tiny_llama
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
    everything = CalibrationRequest(frozenset({"gradient", "input_covariance", "label_covariance"}))
    statistics = calibrate(model, target_layers(model, PROJECTIONS), batches, everything)
    for kind in everything.matrices:
        results |= {f"{kind}/{layer}": matrix for layer, matrix in getattr(statistics, kind).items()}
    return results


def process(rank, folder):
    """One of two: leaves what it found in a file."""
    torch.set_num_threads(1)
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=2, timeout=timedelta(seconds=120))
    computed = []
    handed = ranks.map_over_ranks(["a", "b", "c"], lambda name: computed.append(name) or f"{name} by {rank}")
    torch.save([found(uneven_batches()), found([random_batch(3, 7)]), computed, handed], folder / f"{rank}.pt")
    dist.destroy_process_group()
