"""What a run will take, before it starts: seconds from earlier records, else from sizes and a measured speed; memory.

Bounded from above: the tokens of training, calibration and scoring (each example as long as task.max_length, each
answer as long as its definition allows). Exact: weights, float32 masters, gradients and AdamW's moments. Guessed: how
much of a matrix product's speed a model reaches, and the activations (Korthikanti et al. 2022, arXiv:2205.05198,
table 2, counted for GPT's layer). Left out: decomposing matrices, reading data, memory that an allocator leaves unused,
and the logits of scoring, whose batch is halved where they do not fit.
"""

from bench.plan.estimate.cost import (
    BLOCK_SECONDS,
    UTILISATION,
    Estimate,
    bytes_by_part,
    from_sizes,
    matmul_flops_per_second,
    peak_bytes,
    seconds_by_phase,
)
from bench.plan.estimate.records import estimate, estimator
from bench.plan.estimate.size import Sizes, refusal, sizes
from bench.plan.estimate.tokens import GUESSED_CHOICES, Passes, passes

__all__ = [
    "BLOCK_SECONDS",
    "GUESSED_CHOICES",
    "UTILISATION",
    "Estimate",
    "Passes",
    "Sizes",
    "bytes_by_part",
    "estimate",
    "estimator",
    "from_sizes",
    "matmul_flops_per_second",
    "passes",
    "peak_bytes",
    "refusal",
    "seconds_by_phase",
    "sizes",
]
