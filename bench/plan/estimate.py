"""How long a run will take and how much memory it needs, estimated before it starts.

Seconds come from comparable records: runs of the same model and task on the same GPU, or on any CPU; of the same method
and software stack where there are such. The phases of each are scaled to this run's examples and items, and the median
counts. Memory comes from records of the same method, at no smaller a batch and rank.

Without records both come from the model's size (bench.sweep.size) and from the speed of this machine.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.process.places import RESULTS
from bench.process.provenance import fingerprint
from bench.runs.record import COMPLETED, CorruptRecordError, Record, read_record
from bench.study.plan_file import every_run_folder
from bench.study.selection import first_of_each
from bench.sweep import size

if TYPE_CHECKING:
    from bench.config import Run
    from bench.plan.gpus import Gpu

# Share of the speed of one large matrix product that a model reaches. On a GPU 0.35 is assumed, not measured: the
# middle of the 0.21 to 0.46 that Chowdhery et al. 2022 (arXiv:2204.02311, table 3) report for pretraining, there of the
# hardware's peak. On a CPU the tokens, counted from above, include padding that is never computed: with 0.9 of 100
# GFLOP/s the records of results/demo are met within a third, and those of results/minilm_glue, whose sentences fill a
# tenth of max_length, are two to four times shorter (tests/test_estimate.py).
UTILISATION = {"GPU": 0.35, "CPU": 0.9}


@dataclass(frozen=True)
class CostEstimate:
    """What one run will take.

    Attributes:
        seconds: None for a model of unknown size.
        peak_bytes: on the GPU if there is one, else of the process; None as above.
        source: where both come from: "from 3 records", "from the model's size ...", or why there is no estimate.
    """

    seconds: float | None
    peak_bytes: int | None
    source: str


class Estimator:
    """Estimates runs one by one.

    Args:
        records: earlier runs; read when the first run is estimated.
        speed: FLOP/s of a matrix product on this machine, by dtype; called only where records do not suffice.
        gpu: name of the GPU, as its driver and records have it; None without one.
        stack: fingerprint of this machine's software and hardware.
        device: what runs are estimated for, in words.
    """

    def __init__(
        self, records: Iterable[Record], speed: Callable[[str], float], gpu: str | None, stack: str, device: str
    ) -> None:
        self._records, self._speed, self._gpu, self._stack, self._device = records, speed, gpu, stack, device

    def __call__(self, run: Run) -> CostEstimate:
        """Seconds and memory from records where there are comparable ones, else from the model's size."""
        model = json.dumps(run.model.identity(), sort_keys=True)
        found = self._by_kind.get((model, run.task.name, run.task.max_length, run.trains, run.score.only_loss), [])
        here = [record for record in found if record.environment.fingerprint == self._stack]
        same = [record for record in here or found if record.method == run.start_name]
        records = same or here or found
        if not records:
            return self._from_size(run)
        source = f"from {len(records)} record{'' if len(records) == 1 else 's'}{'' if here else ' of another stack'}"
        seconds = median(_scaled(run, record) for record in records)
        alike = [record for record in same if _needs_as_much(run, record)]
        peaks = [phase.peak_bytes for record in alike for phase in record.phases.values() if phase.peak_bytes]
        if peaks:
            return CostEstimate(seconds, max(peaks), source)
        sized = self._from_size(run)
        return CostEstimate(seconds, sized.peak_bytes, f"{source}, memory {sized.source}")

    @functools.cached_property
    def _by_kind(self) -> Mapping[tuple[Any, ...], list[Record]]:
        """Completed records on such a GPU by what makes seconds comparable."""
        found = defaultdict(list)
        for record in self._records:
            if record.status == COMPLETED and record.environment.hardware.gpu == self._gpu:
                model = json.dumps(record.identity["model"], sort_keys=True)
                task = record.config.task
                only_loss = record.config.score.get("only_loss", False)
                found[model, task.name, task.max_length, "train" in record.phases, only_loss].append(record)
        return found

    def _from_size(self, run: Run) -> CostEstimate:
        if size.is_unknown(run):
            return CostEstimate(None, None, "size unknown: no architecture in conf/model")
        utilisation = UTILISATION["CPU" if self._gpu is None else "GPU"]
        seconds = size.seconds(run, utilisation * self._speed(size.compute_dtype(run)))
        peak = size.peak_bytes(run) + (size.PROCESS_BYTES if self._gpu is None else 0)
        return CostEstimate(seconds, peak, f"from the model's size on {self._device}")


def estimator(results_dir: Path, gpu: Gpu | None = None) -> Estimator:
    """Estimates from records and the speed of a GPU, or of this machine.

    Args:
        results_dir: its records of such a device count, and those of results/.
        gpu: None: this machine.
    """
    import torch

    def records() -> Iterator[Record]:
        folders = dict.fromkeys((results_dir, RESULTS))
        for folder in chain.from_iterable(map(every_run_folder, folders)):
            with contextlib.suppress(CorruptRecordError):
                yield read_record(folder)

    if gpu is not None:
        return Estimator(records(), gpu.flops_per_second, gpu.calls_itself, fingerprint(), f"one {gpu.name}")
    own = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    device = f"this machine's {'GPU' if own else 'CPU'}"
    return Estimator(records(), matmul_flops_per_second, own, fingerprint(), device)


def _scaled(run: Run, record: Record) -> float:
    """The seconds of a record, its training scaled to this run's examples and its scoring to this run's items."""
    scored = sum(score.num_examples for score in first_of_each(record.scores, lambda score: score.task))
    scale = {"score": size.num_items(run) / max(1, scored)}
    if run.trains:
        scale["train"] = scale["measure"] = size.num_examples(run.train) / max(
            1, size.num_examples(record.config.train)
        )
    return sum(phase.seconds * scale.get(name, 1.0) for name, phase in record.phases.items())


def _needs_as_much(run: Run, record: Record) -> bool:
    train = record.config.train
    return (
        train.batch_size >= run.train.batch_size
        and train.precision == run.train.precision
        and (record.config.rank.r or 0) >= run.rank.r
        and bool(record.config.measure.alignment_steps) >= bool(run.measure.alignment_steps)
    )


@functools.cache
def matmul_flops_per_second(dtype: str) -> float:
    """FLOP/s of a product of two large square matrices on this machine: the best within 0.2 s."""
    import torch
    from torch.utils.benchmark import Timer

    device, side = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 1024)
    matrix = torch.ones(side, side, dtype=getattr(torch, dtype), device=device)
    timer = Timer("matrix @ matrix", globals={"matrix": matrix}, num_threads=torch.get_num_threads())
    return 2 * side**3 / min(timer.blocked_autorange(min_run_time=0.2).times)
