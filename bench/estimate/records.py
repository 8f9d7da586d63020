"""What a run will take: from earlier records where there are comparable ones, else from sizes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench.estimate.cost import Estimate, from_sizes, matmul_flops_per_second
from bench.estimate.tokens import num_items, passes
from bench.provenance import fingerprint
from bench.record import COMPLETED, CorruptRecordError, Record, read_record
from bench.study import run_folders

if TYPE_CHECKING:
    from bench.config import Run


def comparable(run: Run, records: Sequence[Record], gpu: str | None, fingerprint: str) -> list[Record]:
    """Completed records of the same model and task on such a GPU, or on any CPU; of these the nearest.

    Nearest is of the same method on this very stack, then the same stack, then the same method.
    """
    wanted = run.identity
    found = [
        record
        for record in records
        if record.status == COMPLETED
        and record.identity["model"] == wanted["model"]
        and record.identity["task"]["name"] == run.task.name
        and record.config["task"]["max_length"] == run.task.max_length
        and record.environment["hardware"]["gpu"] == gpu
        and ("train" in record.phases) == run.trains
    ]

    def near(record: Record) -> tuple[bool, bool]:
        return record.environment["fingerprint"] == fingerprint, record.config["method"]["name"] == run.method_name

    best = max(map(near, found), default=None)
    return [record for record in found if near(record) == best]


def from_records(run: Run, records: Sequence[Record], fingerprint: str) -> Estimate | None:
    """Medians of comparable records, each scaled to this run's examples, probes and items; None without records.

    Memory is taken from records of the same method at no smaller a batch and rank, their highest; None otherwise.
    """
    if not records:
        return None
    seconds = median(sum(_scaled(run, record)) for record in records)
    peaks = [
        phase["peak_bytes"]
        for record in records
        if _needs_as_much(run, record)
        for phase in record.phases.values()
        if phase["peak_bytes"] is not None
    ]
    source = f"from {len(records)} record{'s' if len(records) > 1 else ''}"
    if records[0].environment["fingerprint"] != fingerprint:
        source += " of another stack"
    return Estimate(seconds, max(peaks, default=None), source)


def _scaled(run: Run, record: Record) -> Iterator[float]:
    then = record.config
    spent = {name: phase["seconds"] for name, phase in record.phases.items()}
    yield from (spent.get(name, 0.0) for name in ("load", "calibrate", "initialise"))
    if run.trains:
        examples = math.prod(then["train"][key] for key in _EXAMPLES)
        yield spent["train"] * math.prod(getattr(run.train, key) for key in _EXAMPLES) / examples
        interval = then["measure"]["alignment_steps"]
        if interval:
            probes = passes(run)["measure"].batches if run.measure.alignment_steps else 0
            yield spent.get("measure", 0.0) * probes / (1 + then["train"]["max_steps"] // interval)
    by_task = {score["task"]: score["num_examples"] for score in record.scores}
    items = sum(num_items(run, run.task.datasets[name]) for name in run.task.score)
    yield spent["score"] * items / max(1, sum(by_task.values()))


_EXAMPLES = ("max_steps", "batch_size", "gradient_accumulation_steps")


def _needs_as_much(run: Run, record: Record) -> bool:
    then = record.config
    return (
        then["method"]["name"] == run.method_name
        and then["train"]["batch_size"] >= run.train.batch_size
        and then["train"]["precision"] == run.train.precision
        and then["rank"]["r"] >= run.rank.r
        and bool(then["measure"]["alignment_steps"]) >= bool(run.measure.alignment_steps)
    )


def estimate(
    run: Run, records: Sequence[Record], speed: Callable[[str], float], gpu: str | None, fingerprint: str
) -> Estimate:
    """Seconds from records where there are comparable ones, else from sizes; the same for the memory.

    Args:
        speed: of a matrix product, by dtype; asked only where records do not suffice.
        gpu: its name; None without one.
    """
    near = comparable(run, records, gpu, fingerprint)
    recorded = from_records(run, near, fingerprint)
    if recorded is not None and recorded.peak_bytes is not None:
        return recorded
    counted = from_sizes(run, speed, gpu is not None)
    if recorded is None:
        return counted
    return Estimate(recorded.seconds, counted.peak_bytes, f"{recorded.source}, memory {counted.source}")


def estimator(results_dir: Path) -> Callable[[Run], Estimate]:
    """Estimates from the records below a results folder, and the speed of this machine."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    records, stack = list(_read(results_dir)), fingerprint()
    return lambda run: estimate(run, records, matmul_flops_per_second, gpu, stack)


def _read(results_dir: Path) -> Iterator[Record]:
    for folder in run_folders(results_dir, "**"):
        with contextlib.suppress(CorruptRecordError):
            yield read_record(folder)
