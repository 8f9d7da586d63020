"""What a run leaves behind: results/<study>/<run_id>/ with record.json, the curves, the outcomes and the weights.

Imports no torch: reports read records on any machine. A record names each file beside it with its size and checksum,
and holds a checksum of itself. The weights are not meant to be committed; a folder without them holds a result to read,
not a finished run of this machine, and the run is done again.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import Any

from pydantic_core import from_json

from bench.process.files import write_whole
from bench.process.hashes import fresh_sha256
from bench.process.redact import shareable
from bench.runs.record_schema import checked, parsed

SCHEMA_VERSION = 4
READABLE = (3, 4)  # 3 has no checksums: it is reported, and never taken for a finished run
RECORD, CURVE, ALIGNMENT = "record.json", "curve.jsonl", "alignment.jsonl"
OUTCOMES, WEIGHTS = "outcomes.jsonl.gz", "trained.safetensors"
MOST_BYTES = 2**30  # of rows in one file, unpacked: a small packed file may hold any number
HASH_DIGITS = 16  # of an item's hash, by which items are told apart and a compacted study keeps
ALL_LAYERS = "all"  # in alignment.jsonl, the row over all adapted layers taken as one vector
COMPLETED, FAILED, INTERRUPTED = "completed", "failed", "interrupted"
# What two runs of one configuration may differ in: when and how long, and how much memory.
TIMING = ("seconds", "total_seconds", "peak_bytes", "read", "attempts", "files")


class CorruptRecordError(ValueError):
    """A record that cannot be read or lacks what a record holds."""


@dataclass
class Record:
    """One run; the fields are record.json's.

    Attributes:
        run_id: names the folder; a hash of all that can change the numbers is part of it.
        status: completed or failed; interrupted in the folder of a run that is to be resumed.
        label: the method as its paper prints it.
        config: the run's full configuration.
        identity: the part of it that can change the numbers; runs equal but for the seed are one cell of a table.
        environment: code, versions, hardware, settings, and `fingerprint`, a hash of what makes numbers comparable.
        command: the command line that makes exactly this run.
        model, data: name, revision or hash, and size of what was used; of the data also what was left out, cut, or
            found in both training and test.
        phases: seconds and peak_bytes of load, calibrate, initialise, train, measure and score; of a resumed run, the
            training that its result needed, and the other phases as they were done last.
        initialization: trainable parameters, logit change at step 0, calibration samples, and a report a layer.
        training: steps, tokens, seconds, final losses; empty where nothing is trained.
        scores: task, metric, value, stderr, num_examples, higher_is_better and the majority class's value each.
        scoring: the batch size that was used, prompts that were cut, and whether merged weights score alike.
        error: type and message of a failed run, and the step where one is known.
        attempts: when the run was begun and resumed, and at which step.
        files: size and sha256 of each file beside the record.
    """

    run_id: str
    status: str
    label: str
    config: dict[str, Any]
    identity: dict[str, Any]
    environment: dict[str, Any]
    command: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    phases: dict[str, Any] = field(default_factory=dict)
    initialization: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)
    scoring: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    attempts: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


def read_record(folder: Path) -> Record:
    """The record of a run's folder.

    Raises:
        CorruptRecordError: record.json is missing, not JSON, of another schema, changed since it was written, or lacks
            a field.
    """
    path = folder / RECORD
    try:
        content = parsed(path.read_text(encoding="utf-8"))
        schema = content["schema_version"]
        if schema not in READABLE:
            known = ", ".join(map(str, READABLE))
            raise CorruptRecordError(f"{path}: schema {str(schema)[:20]!r}, this version reads {known}")
        if schema >= 4 and content.pop("checksum") != _checksum(content):
            raise CorruptRecordError(f"{path}: changed since it was written: its checksum is another")
        return Record(**checked(content))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, CorruptRecordError):
            raise
        raise CorruptRecordError(f"{path}: {type(error).__name__}: {error}") from None


def sealed_record(folder: Path) -> Record | None:
    """The record of a run's folder, if its checksum is right; else None, and `read_record` says what it is.

    Takes a quarter of the time: what has its checksum was written as a whole, by what knows how a record looks.
    """
    try:
        written = (folder / RECORD).read_bytes()
        content = from_json(written, cache_strings="keys")
        checksum = content.pop("checksum")
        right = _is_as_written(written, checksum) or checksum == _checksum(content)
        return Record(**content) if right and content["schema_version"] == SCHEMA_VERSION else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def write_record(folder: Path, record: Record, indent: int | None = 1) -> None:
    """Writes record.json with its checksum, as a whole or not at all; no secret of the environment goes with it."""
    content = json.loads(json.dumps(shareable(asdict(record))))  # as it will be read
    content["checksum"] = _checksum(content)
    separators = None if indent else (",", ":")
    write_whole(folder / RECORD, json.dumps(content, indent=indent, separators=separators) + "\n")


def _checksum(content: dict[str, Any]) -> str:
    """Of a record without its checksum, its keys in their order."""
    return hashlib.sha256(json.dumps(content, separators=(",", ": ")).encode()).hexdigest()


def _is_as_written(text: bytes, checksum: str) -> bool:
    """Whether this is the text of `write_record`: less line breaks, indentation and the end, it has the checksum."""
    body, _, end = text.rpartition(b',\n "checksum": ')
    lines = map(bytes.lstrip, body.split(b"\n"))
    return end == f'"{checksum}"\n}}\n'.encode() and hashlib.sha256(b"".join(lines) + b"}").hexdigest() == checksum


def identity_digest(identity: dict[str, Any] | str) -> str:
    """The end of a run's id: a hash of everything that can change its numbers, also as JSON with sorted keys."""
    text = identity if isinstance(identity, str) else json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file of a run's folder but the record itself."""
    found = (path for path in sorted(folder.iterdir()) if path.is_file() and path.name != RECORD)
    return {path.name: {"sha256": fresh_sha256(path), "bytes": path.stat().st_size} for path in found}


def differing_files(folder: Path, record: Record, content: bool = True) -> list[str]:
    """The files of a record that are missing or are not what they were; weights may be missing.

    Args:
        content: compare the checksums too, and not only the sizes.
    """
    found = []
    for name, described in record.files.items():
        path = f"{folder}/{name}"
        try:
            stat = os.lstat(path)
        except OSError:
            found += [name] if name != WEIGHTS else []
            continue
        same = S_ISREG(stat.st_mode) and stat.st_size == described["bytes"]
        if not same or (content and fresh_sha256(Path(path)) != described["sha256"]):
            found.append(name)
    return found


def without_timing(values: Any) -> Any:
    """What must be the same whenever and however often a run is done: all but its TIMING, at any depth.

    A curve holds seconds, so the checksums in `files` are others each time.
    """
    if isinstance(values, dict):
        return {key: without_timing(value) for key, value in values.items() if key not in TIMING}
    return [without_timing(value) for value in values] if isinstance(values, list) else values


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of curve.jsonl, alignment.jsonl or outcomes.jsonl.gz; none where the file does not exist.

    Where there is curve.jsonl.gz instead (bench.compact), it is read.

    Raises:
        CorruptRecordError: the file is torn.
    """
    return parse_rows(path, lambda text: [json.loads(line) for line in text.splitlines()])


def parse_rows(path: Path, parse: Callable[[str], list[Any]]) -> list[dict[str, Any]]:
    """The same with a parser of one's own for the file's text.

    Raises:
        CorruptRecordError: the file is torn, has more than a gigabyte when unpacked, or a row is none.
    """
    if not path.is_file():
        path = path.with_name(f"{path.name}.gz")
        if not path.is_file():
            return []
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES:,} bytes")
        rows = parse(content.decode())
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise CorruptRecordError(f"{path}: {type(error).__name__}: {error}") from None
    if not all(isinstance(row, dict) for row in rows):
        raise CorruptRecordError(f"{path}: a line is no row of named values")
    return rows


def check_writable(results_dir: Path) -> None:
    """Refuses a results folder that cannot be made or written to.

    Raises:
        ValueError: with the folder and the system's reason.
    """
    try:
        results_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results_dir):
            pass
    except OSError as error:
        raise ValueError(f"results_dir={results_dir} cannot be written: {error.strerror}; choose another") from None
