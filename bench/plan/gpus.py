"""GPUs that a study can be planned for without having one, and the settings with which a run fits one's memory.

Peaks are those of the makers' data sheets, of dense products: bfloat16 on tensor cores that add in float32, float32
without TF32, as torch computes unless it is told otherwise. Records that were made on such a GPU replace them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.sweep import size

if TYPE_CHECKING:
    from bench.config import Run

MOST_HALVINGS = 6


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: on the command line.
        calls_itself: its driver's name for it, which records have; empty for one that is given by numbers.
        gib: memory that a process can have.
        tflops: peak of matrix products by dtype.
    """

    name: str
    calls_itself: str
    gib: float
    tflops: dict[str, float]

    def flops_per_second(self, dtype: str) -> float:
        """The peak of matrix products of a dtype."""
        return 1e12 * self.tflops[dtype]


def _gpu(name: str, calls_itself: str, gib: float, bfloat16: float, float32: float) -> Gpu:
    return Gpu(name, calls_itself, gib, {"bfloat16": bfloat16, "float32": float32})


GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("h200", "NVIDIA H200", 139.8, 989.4, 66.9),
        _gpu("h100", "NVIDIA H100 80GB HBM3", 79.1, 989.4, 66.9),
        _gpu("a100-80", "NVIDIA A100-SXM4-80GB", 79.2, 311.9, 19.5),
        _gpu("a100-40", "NVIDIA A100-SXM4-40GB", 39.4, 311.9, 19.5),
        _gpu("l40s", "NVIDIA L40S", 44.4, 362.1, 91.6),
        _gpu("4090", "NVIDIA GeForce RTX 4090", 23.6, 165.2, 82.6),
    )
}


def gpu_named(text: str) -> Gpu:
    """A GPU of the table, or one given as TFLOP/s and GiB, `300x48`.

    Raises:
        ValueError: it is neither.
    """
    if text.lower() in GPUS:
        return GPUS[text.lower()]
    tflops, _, gib = text.partition("x")
    try:
        if float(tflops) > 0 and float(gib) > 0:
            return _gpu(text, "", float(gib), float(tflops), float(tflops))
    except ValueError:
        pass
    raise ValueError(f"--gpu={text} is none of {', '.join(GPUS)}, and no TFLOP/s and GiB such as 300x48")


def remedy(run: Run, gib: float) -> str | None:
    """The overrides with which a run that does not fit into a GPU's memory does; None if no smaller batch suffices.

    The batch is halved as often as needed, and as many more of them accumulated, so that a step has as many examples.
    """
    train, task = run.train, run.task
    for share in (2**halvings for halvings in range(1, MOST_HALVINGS + 1)):
        if train.batch_size % share:
            return None
        of_train = {
            "batch_size": train.batch_size // share,
            "gradient_accumulation_steps": train.gradient_accumulation_steps * share,
        }
        of_task = {
            "calibration_batch_size": max(1, task.calibration_batch_size // share),
            "probe_samples": max(1, task.probe_samples // share),
        }
        smaller = replace(run, train=replace(train, **of_train), task=replace(task, **of_task))
        if size.peak_bytes(smaller) <= gib * 2**30:
            overrides = {"train": of_train, "task": of_task}
            return " ".join(f"{part}.{key}={value}" for part, of in overrides.items() for key, value in of.items())
    return None
