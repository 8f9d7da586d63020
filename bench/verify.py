"""Whether a run's record is what was written, and whether it can be had again: `python -m bench.verify RUN_DIR`.

Checks the record's schema and checksum, that it is of this run, and the checksum of every file that it names. With
--rerun the run is done again elsewhere, and all that it came to is compared but for times and memory.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.process.environment import quiet_environment
from bench.process.provenance import fingerprint
from bench.process.redact import redacted
from bench.runs.folder import RunFolder
from bench.runs.record import (
    ALIGNMENT,
    CHECKSUMMED,
    COMPLETED,
    CURVE,
    HASH_DIGITS,
    OUTCOMES,
    WEIGHTS,
    CorruptRecordError,
    Record,
    differing_files,
    read_record,
    read_rows,
    without_timing,
)

# Of a record, what a run comes to; the rest is what it was made from.
RESULTS = ("status", "model", "data", "initialization", "training", "scores", "scoring")
SHOWN = 20  # differences that are named


def problems(folder: Path) -> list[str]:
    """What is wrong with a run's folder, a line each; none where it is as it was written."""
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


def rerun(folder: Path, root: Path) -> Path:
    """Does a run again, below another results folder; returns the folder of the new one.

    Raises:
        ValueError: the record is of a run that did not complete, or its configuration is not valid here.
    """
    from bench.config import Run
    from bench.run import run
    from bench.runs.job import execute
    from bench.runs.tracking import Track

    record = read_record(folder)
    if record.status != COMPLETED:
        raise ValueError(f"{folder} holds a run that {record.status}: there is nothing to compare")
    cfg = replace(Run.from_record(record), results_dir=root, track=Track(mode="none", project="verify"))
    if cfg.run_id != record.run_id:
        raise ValueError(f"this configuration is {cfg.run_id} here, not {record.run_id}: data, model or suite changed")
    execute(cfg, run, "[1/1]", record.command)
    return root / cfg.study / cfg.run_id


def differences(one: Path, other: Path) -> list[str]:
    """Where two runs came to different numbers, a line each."""
    first, second = read_record(one), read_record(other)
    found = list(_differing(_results(first), _results(second), "record"))
    for name in (CURVE, ALIGNMENT, OUTCOMES):
        then, now = (_rows(folder / name) for folder in (one, other))
        if then or name != OUTCOMES:  # of a run that only chose a learning rate a compacted study keeps no rows
            found += _differing(then, now, name)
    weights = [file.sha256 if (file := record.files.get(WEIGHTS)) else None for record in (first, second)]
    if None not in weights and weights[0] != weights[1]:
        found.append(f"{WEIGHTS}: other bytes")
    return found


def _results(record: Record) -> dict[str, Any]:
    return without_timing(record.model_dump(include=set(RESULTS)))


def _rows(path: Path) -> list[dict[str, Any]]:
    """Without times, and with items' hashes as short as a compacted study's."""
    return [
        row | {"doc_hash": row["doc_hash"][:HASH_DIGITS]} if "doc_hash" in row else row
        for row in without_timing(read_rows(path))
    ]


def _differing(one: Any, other: Any, where: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one:  # what an older schema did not hold is nothing that could differ
            yield from _differing(one.get(key), other.get(key), f"{where}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from _differing(*pair, f"{where}[{index}]")
    elif one != other and not _both_nan(one, other):
        yield f"{where}: {_short(one)}, now {_short(other)}"


def _both_nan(one: Any, other: Any) -> bool:
    return isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)


def _short(value: Any) -> str:
    shown = f"{len(value)} rows" if isinstance(value, list) else repr(value)
    return shown if len(shown) < 60 else f"{shown[:60]}..."


def _repeat(folder: Path) -> int:
    """Reruns and compares; prints what was found."""
    then = read_record(folder).environment.fingerprint
    if then != fingerprint():
        print("warning: made on another stack or machine type, where last digits are others", file=sys.stderr)
    with tempfile.TemporaryDirectory() as root:
        again = rerun(folder, Path(root))
        found = differences(folder, again)
    for line in found[:SHOWN]:
        print(f"differs: {line}")
    if len(found) > SHOWN:
        print(f"and {len(found) - SHOWN} more")
    print("the same numbers again" if not found else f"{len(found)} differences")
    return 1 if found else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what is wrong; exit status 1 if anything is, 2 if it cannot be tried."""
    parser = argparse.ArgumentParser(prog="python -m bench.verify", description=(__doc__ or "").split(":")[0])
    parser.add_argument("run", type=Path, metavar="RUN_DIR", nargs="+", help="results/STUDY/RUN_ID, or several of them")
    parser.add_argument("--rerun", action="store_true", help="do the run again and compare the numbers")
    given = parser.parse_args(arguments)
    quiet_environment()
    status = 0
    for folder in given.run:
        found = problems(folder)
        for line in found:
            print(redacted(f"{folder.name}: {line}"))
        if not found:
            print(f"{folder.name}: as it was written")
        status = max(status, 1 if found else 0)
        try:
            status = max(status, _repeat(folder) if given.rerun else 0)
        except ValueError as error:
            print(f"error: {redacted(str(error))}", file=sys.stderr)
            status = 2
    return status


if __name__ == "__main__":
    sys.exit(main())
