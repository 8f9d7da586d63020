"""What a run will take: from earlier records where there are comparable ones, else from sizes."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.plan.estimate.cost import Estimate, from_sizes, matmul_flops_per_second
from bench.plan.estimate.tokens import num_items, passes
from bench.process.provenance import fingerprint
from bench.runs.record import COMPLETED, CorruptRecordError, Record, read_record
from bench.runs.record_parts import PhaseCost, TrainConfig
from bench.study.plan_file import every_run_folder

if TYPE_CHECKING:
    from bench.config import Run


@dataclass(frozen=True)
class Seen:
    """What an estimate needs of a completed record."""

    phases: Mapping[str, PhaseCost]
    train: TrainConfig
    alignment_steps: int
    r: int
    num_items: int


class Records:
    """Completed records by what makes them comparable, so that a run's are found at once among many.

    Args:
        gpu: name of this machine's; None without one.
        fingerprint: of this machine's stack.
    """

    def __init__(self, records: Iterable[Record], gpu: str | None, fingerprint: str) -> None:
        self._fingerprint = fingerprint
        self._seen: dict[tuple[Any, ...], dict[tuple[bool, str], list[Seen]]] = {}
        for record in records:
            if record.status == COMPLETED and record.environment.hardware.gpu == gpu:
                self._add(record)

    def _add(self, record: Record) -> None:
        then = record.config
        trains = "train" in record.phases
        model = json.dumps(record.identity["model"], sort_keys=True)
        key = (model, record.config.task.name, then.task.max_length, trains)
        near = (record.environment.fingerprint == self._fingerprint, then.method.name)
        by_task = {score.task: score.num_examples for score in record.scores}
        seen = Seen(
            phases=record.phases,
            train=then.train,
            alignment_steps=then.measure.alignment_steps or 0,
            r=then.rank.r or 0,
            num_items=max(1, sum(by_task.values())),
        )
        self._seen.setdefault(key, {}).setdefault(near, []).append(seen)

    def nearest(self, run: Run) -> tuple[list[Seen], bool, bool]:
        """Records of the same model and task on such a GPU, or on any CPU; and whether of this stack, this method.

        Nearest is of the same method on this very stack, then the same stack, then the same method.
        """
        model = json.dumps(run.model.identity(), sort_keys=True)
        key = (model, run.task.name, run.task.max_length, run.trains)
        found = self._seen.get(key, {})
        for same_stack in (True, False):
            if (same_stack, run.method_name) in found:
                return found[same_stack, run.method_name], same_stack, True
            others = [seen for (stack, _), records in found.items() if stack == same_stack for seen in records]
            if others:
                return others, same_stack, False
        return [], False, False


def from_records(run: Run, known: Records) -> Estimate | None:
    """Medians of comparable records, each scaled to this run's examples, probes and items; None without records.

    Memory is taken from records of the same method at no smaller a batch and rank, their highest; None otherwise.
    """
    records, same_stack, same_method = known.nearest(run)
    if not records:
        return None
    probes = passes(run)["measure"].batches if run.trains and run.measure.alignment_steps else 0
    items = sum(num_items(run, run.task.datasets[name]) for name in run.task.score)
    seconds = median(_scaled(run, record, probes, items) for record in records)
    peaks = [
        phase.peak_bytes
        for record in records
        if same_method and _needs_as_much(run, record)
        for phase in record.phases.values()
        if phase.peak_bytes is not None
    ]
    source = f"from {len(records)} record{'s' if len(records) > 1 else ''}"
    return Estimate(seconds, max(peaks, default=None), source if same_stack else f"{source} of another stack")


_EXAMPLES = ("max_steps", "batch_size", "gradient_accumulation_steps")


def _scaled(run: Run, record: Seen, probes: int, items: int) -> float:
    """The seconds of a record, for this run's examples, probes and items."""
    spent = {name: phase.seconds for name, phase in record.phases.items()}
    found = sum(spent.get(name, 0.0) for name in ("load", "calibrate", "initialise"))
    if run.trains:
        examples = math.prod(getattr(record.train, key) for key in _EXAMPLES)
        found += spent["train"] * math.prod(getattr(run.train, key) for key in _EXAMPLES) / examples
        if record.alignment_steps:
            found += spent.get("measure", 0.0) * probes / (1 + record.train.max_steps // record.alignment_steps)
    return found + spent["score"] * items / record.num_items


def _needs_as_much(run: Run, record: Seen) -> bool:
    return (
        record.train.batch_size >= run.train.batch_size
        and record.train.precision == run.train.precision
        and record.r >= run.rank.r
        and bool(record.alignment_steps) >= bool(run.measure.alignment_steps)
    )


def estimate(
    run: Run, records: Iterable[Record], speed: Callable[[str], float], gpu: str | None, fingerprint: str
) -> Estimate:
    """Seconds from records where there are comparable ones, else from sizes; the same for the memory.

    Args:
        speed: of a matrix product, by dtype; asked only where records do not suffice.
        gpu: its name; None without one.
    """
    return _estimate(run, Records(records, gpu, fingerprint), speed, gpu)


def _estimate(run: Run, known: Records, speed: Callable[[str], float], gpu: str | None) -> Estimate:
    recorded = from_records(run, known)
    if recorded is not None and recorded.peak_bytes is not None:
        return recorded
    counted = from_sizes(run, speed, gpu is not None)
    if recorded is None:
        return counted
    return Estimate(recorded.seconds, counted.peak_bytes, f"{recorded.source}, memory {counted.source}")


def estimator(results_dir: Path) -> Callable[[Run], Estimate]:
    """Estimates from the records below a results folder, and the speed of this machine.

    The records are read when first asked; runs that differ in seed and learning rate alone are estimated once.
    """
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    read: list[Records] = []
    known: dict[tuple[Any, ...], Estimate] = {}

    def estimated(run: Run) -> Estimate:
        if not read:
            read.append(Records(_read(results_dir), gpu, fingerprint()))
        key = _alike(run)
        if key not in known:
            known[key] = _estimate(run, read[0], matmul_flops_per_second, gpu)
        return known[key]

    return estimated


def _alike(run: Run) -> tuple[Any, ...]:
    """What an estimate depends on: all but seed, learning rate and paths."""
    train = replace(run.train, learning_rate=None)
    parts = (run.method, run.rank, run.adapter, run.task, run.model, run.measure, run.score, run.svd, train)
    return (run.method_name, *map(repr, parts))


def _read(results_dir: Path) -> Iterator[Record]:
    """The records below a folder; of runs alike but for seed and learning rate, as many as a median needs."""
    taken: Counter[tuple[Path, str]] = Counter()
    for folder in every_run_folder(results_dir):
        alike = (folder.parent, _SEED.sub("", folder.name.rpartition("-")[0]))
        if taken[alike] < MOST_ALIKE:
            with contextlib.suppress(CorruptRecordError):
                yield read_record(folder)
                taken[alike] += 1


_SEED = re.compile(r"-s\d+$")
MOST_ALIKE = 10
