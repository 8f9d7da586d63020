"""In what two runs differ: configuration, versions, data, hardware, and the numbers that came of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from bench.runs.record import ALIGNMENT, CURVE, OUTCOMES, Record, as_kept, read_record, read_rows, without_timing

CONFIGURATION, VERSIONS, DATA, HARDWARE, NUMBERS = "configuration", "versions", "data", "hardware", "numbers"
_LISTS = ("layers", "calibration_ids")  # of the initialisation: long, so that only the number of differences is said


class Differing(NamedTuple):
    """One thing in which two runs differ; None where a run does not have it."""

    part: str
    what: str
    first: Any
    second: Any


def differing(one: Path, other: Path) -> list[Differing]:
    """What differs between the runs of two folders: configuration, versions, data, hardware and numbers, in this order.

    Numbers include times and memory. Of a curve, the alignment and the items the rows that differ are counted, their
    times left out.

    Raises:
        CorruptRecordError: a record cannot be read.
    """
    first, second = ({part: dict(facts) for part, facts in _facts(folder)} for folder in (one, other))
    return [
        Differing(part, what, first[part].get(what), second[part].get(what))
        for part in first
        for what in dict.fromkeys([*first[part], *second[part]])
        if not _same(first[part].get(what), second[part].get(what))
    ] + [*_rows(one, other)]


def _same(one: Any, other: Any) -> bool:
    return one == other or repr(one) == repr(other)  # NaN differs from itself


def _facts(folder: Path) -> Iterator[tuple[str, Iterator[tuple[str, Any]]]]:
    """The facts of a run by part, each with a dotted name."""
    record = read_record(folder)
    environment = record.environment.model_dump()
    hardware = {name: environment.pop(name, None) for name in ("hardware", "deterministic", "variables", "fingerprint")}
    yield CONFIGURATION, _flat(record.config.model_dump())
    yield VERSIONS, _flat(environment.pop("versions", {}) | environment)
    yield DATA, _flat({"data": record.data.model_dump(), "model": record.model.model_dump()})
    yield HARDWARE, _flat(hardware.pop("hardware") | hardware)
    yield NUMBERS, _numbers(record)


def _numbers(record: Record) -> Iterator[tuple[str, Any]]:
    yield "status", record.status
    for score in record.scores:
        yield f"{score.task} {score.metric}", score.value
    initialization = record.initialization.model_dump()
    parts = record.model_dump(include={"training", "retention", "curvature", "scoring", "error"})
    parts |= {"initialization": {name: value for name, value in initialization.items() if name not in _LISTS}}
    yield from _flat({name: value for name, value in parts.items() if value is not None})
    for name, cost in record.phases.items():
        yield f"{name}: seconds", cost.seconds
        yield f"{name}: peak_bytes", cost.peak_bytes


def _rows(one: Path, other: Path) -> Iterator[Differing]:
    """The numbers of rows in which the runs' lists and files differ."""
    found = [read_record(folder).initialization.model_dump() for folder in (one, other)]
    lists = {f"initialization.{name}": [facts.get(name, []) for facts in found] for name in _LISTS}
    for name in (CURVE, ALIGNMENT, OUTCOMES):
        read = (
            [as_kept(row) if "doc_hash" in row else row for row in read_rows(folder / name)] for folder in (one, other)
        )
        lists[name] = [without_timing(rows) for rows in read]
    for name, (first, second) in lists.items():
        if count := sum(not _same(*pair) for pair in zip_longest(first, second)):
            yield Differing(NUMBERS, f"{name}: rows", len(first), f"{len(second)}, of which {count} differ")


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values by dotted name."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
