"""Seconds and bytes of a run, from the sizes of its model and this machine's speed."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.plan.estimate.size import Sizes, UnknownSizeError, sizes
from bench.plan.estimate.tokens import passes

if TYPE_CHECKING:
    from bench.config import Run

# Of the speed of one large matrix product. On a GPU 0.35 is assumed, not measured: the middle of the 0.21 to 0.46 that
# Chowdhery et al. 2022 (arXiv:2204.02311, table 3) report for pretraining, there of the hardware's peak. On a CPU
# the bound on the tokens counts padding that is never computed: with 0.9 of 100 GFLOP/s the records of results/demo are
# met within a third, and those of results/minilm_glue, whose sentences fill a tenth of max_length, are two to four
# times shorter (tests/test_estimate.py).
UTILISATION = {"gpu": 0.35, "cpu": 0.9}
# Python and kernel launches of one pass through one block, assumed: 26 ms a generated token for the 32 blocks of Llama
# 2 7B. It is what small models and generation on a GPU wait for.
BLOCK_SECONDS = 0.8e-3
READ_BYTES_PER_SECOND = 1e9  # of a checkpoint
# Resident set with torch, transformers and lm-eval imported: the load phase of results/demo and minilm_glue.
PROCESS_BYTES = 560 * 2**20
TRAINED_BYTES = 16  # a parameter: float32 master, gradient, and AdamW's two moments


@dataclass(frozen=True)
class Estimate:
    """Of one run.

    Attributes:
        seconds: None where nothing is known of the model.
        peak_bytes: on the GPU where there is one, else of the process.
        source: what both come from, in words: "from 3 records", "from sizes on ...", or why there are none.
    """

    seconds: float | None
    peak_bytes: int | None
    source: str


def seconds_by_phase(run: Run, counted: Sizes, flops_per_second: float, on_gpu: bool) -> dict[str, float]:
    """From sizes: 2 operations a parameter and token forward, 2 backward, and 2 for each parameter that is trained.

    Args:
        flops_per_second: of one large matrix product on this machine (`matmul_flops_per_second`).
    """
    speed = UTILISATION["gpu" if on_gpu else "cpu"] * flops_per_second
    forward = 2 * counted.multiplied
    of_gradients = 2 * forward + 2 * counted.target
    operations = {
        "calibrate": of_gradients if "gradient" in run.method.requires else forward,
        "train": 2 * forward + 2 * counted.multiplied_trained,
        "eval": forward,
        "measure": of_gradients,
        "score": forward,
    }
    loaded = (counted.frozen + counted.trainable) * _weight_bytes(run)
    found = {"load": loaded / READ_BYTES_PER_SECOND}
    for phase, through in passes(run).items():
        both_ways = 1 if operations[phase] == forward else 3  # backward takes twice as long
        launching = through.batches * both_ways * counted.blocks * BLOCK_SECONDS
        found[phase] = through.tokens * operations[phase] / speed + launching
    return found


def bytes_by_part(run: Run, counted: Sizes, on_gpu: bool) -> dict[str, int]:
    """Memory at the peak: `totals` of calibration lie on the host or in files, all else on the model's device."""
    length, through = run.task.max_length, passes(run)
    batch = max(
        run.train.batch_size if "train" in through else 0,
        run.task.calibration_batch_size if "calibrate" in through else 0,
        2 * run.task.probe_samples if "measure" in through else 0,
    )
    # s b h (34 + 5 a s / h) a block at 16 bit; sdpa and flash attention do not keep the attention matrix.
    attention = 5 * counted.heads * length**2 * batch if run.model.attention == "eager" else 0
    width = 1 if compute_dtype(run) == "bfloat16" else 2
    logits = batch * counted.outputs * (1 if run.model.found_kind == "encoder" else length)
    compares = "weight" in run.method.trains and "measure" in through  # the probe keeps W as it was before training
    return {
        "weights": counted.frozen * _weight_bytes(run) + counted.frozen_added * 4,
        "trained": counted.trainable * TRAINED_BYTES,
        "pretrained copy": counted.target * 4 if compares else 0,
        "activations": width * counted.blocks * (34 * length * batch * counted.hidden_size + attention),
        "logits": logits * 4 * 2,  # and their gradient, in float32
        "process": 0 if on_gpu else PROCESS_BYTES,
        "totals": counted.statistics * 4,
    }


def peak_bytes(parts: dict[str, int]) -> int:
    """What has to fit where the model is."""
    return sum(size for part, size in parts.items() if part != "totals")


def _weight_bytes(run: Run) -> int:
    return 2 if run.model.dtype == "bfloat16" else 4


def compute_dtype(run: Run) -> str:
    """In which matrices are multiplied."""
    return "bfloat16" if run.model.dtype == "bfloat16" or run.train.precision == "bf16" else "float32"


def from_sizes(run: Run, speed: Callable[[str], float], on_gpu: bool) -> Estimate:
    """An estimate without records; of a model without a known configuration one that says so."""
    try:
        counted = sizes(run)
    except UnknownSizeError as error:
        return Estimate(None, None, f"size unknown: {error}")
    seconds = sum(seconds_by_phase(run, counted, speed(compute_dtype(run)), on_gpu).values())
    source = f"from sizes on this machine's {'GPU' if on_gpu else 'CPU'}"
    return Estimate(seconds, peak_bytes(bytes_by_part(run, counted, on_gpu)), source)


@functools.cache
def matmul_flops_per_second(dtype: str) -> float:
    """How fast this machine multiplies two square matrices: the best of several within about a fifth of a second."""
    import torch

    on_gpu = torch.cuda.is_available()
    device, size = ("cuda", 8192) if on_gpu else ("cpu", 1024)
    left = torch.ones(size, size, dtype=getattr(torch, dtype), device=device)
    best, until = math.inf, time.perf_counter() + 0.2
    while time.perf_counter() < until:
        began = time.perf_counter()
        product = left @ left
        product[0, 0].item()  # waits for the GPU
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
