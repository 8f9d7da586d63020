"""Whether a run's folder is as it was written, and where two runs of one configuration differ."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.runs.folder import RunFolder
from bench.runs.record import (
    ALIGNMENT,
    CHECKSUMMED,
    CURVE,
    OUTCOMES,
    WEIGHTS,
    CorruptRecordError,
    as_kept,
    differing_files,
    read_record,
    read_rows,
    without_timing,
)

# The fields of a record that hold a run's results; the others say what it was made from.
RESULTS = {"status", "model", "data", "initialization", "curvature", "training", "scores", "scoring", "retention"}


def problems(folder: Path) -> list[str]:
    """What is wrong with a run's folder, a line each; nothing if it is as it was written."""
    folder = folder.absolute()
    try:
        record = read_record(folder)
    except CorruptRecordError as error:
        return [str(error)]
    found = []
    if not RunFolder(folder.parent.parent, folder.parent.name, folder.name).is_of(record):
        found.append(f"the record is of {record.run_id}, by its name or by what its identity hashes to")
    if record.schema_version < CHECKSUMMED:
        found.append(f"a record of schema {record.schema_version} has no checksums: nothing says that it is unchanged")
    found += [f"{name} is missing, or not what was written" for name in differing_files(folder, record)]
    for name in (CURVE, ALIGNMENT, OUTCOMES):
        try:
            read_rows(folder / name)
        except CorruptRecordError as error:
            found.append(str(error))
    return found


def differences(one: Path, other: Path) -> list[str]:
    """The numbers in which two runs differ, a line each; times and memory are not compared.

    Args:
        one: folder of the first run, such as the recorded one.
        other: folder of the second; what only it holds, as a newer schema may, is no difference.
    """
    first, second = read_record(one), read_record(other)
    then, now = (without_timing(record.model_dump(include=RESULTS)) for record in (first, second))
    found = list(_differing(then, now, "record"))
    for name in (CURVE, ALIGNMENT, OUTCOMES):
        then, now = (_rows(folder / name) for folder in (one, other))
        if then or name != OUTCOMES:  # of a run that only chose a learning rate a compacted study keeps no rows
            found += _differing(then, now, name)
    weights = [file.sha256 if (file := record.files.get(WEIGHTS)) else None for record in (first, second)]
    if None not in weights and weights[0] != weights[1]:
        found.append(f"{WEIGHTS}: other bytes")
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    """Without times, and items as a compacted study keeps them."""
    return [as_kept(row) if "doc_hash" in row else row for row in without_timing(read_rows(path))]


def _differing(one: Any, other: Any, where: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one:  # what an older schema did not hold is nothing that could differ
            yield from _differing(one.get(key), other.get(key), f"{where}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from _differing(*pair, f"{where}[{index}]")
    elif one != other and repr(one) != repr(other):  # NaN differs from itself
        yield f"{where}: {_short(one)}, now {_short(other)}"


def _short(value: Any) -> str:
    shown = f"{len(value)} rows" if isinstance(value, list) else repr(value)
    return shown if len(shown) < 60 else f"{shown[:60]}..."
