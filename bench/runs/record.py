"""What a run leaves behind: runs/STUDY/RUN_ID/ with record.json, the curves, the outcomes and the weights.

Imports no torch: reports read records on any machine. A record names each file beside it with its size and checksum,
and holds a checksum of itself. The weights are not meant to be committed; a folder without them holds a result to read,
not a finished run of this machine, and the run is done again.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import zlib
from pathlib import Path
from stat import S_ISREG
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from bench.process.files import write_whole
from bench.process.hashes import fresh_sha256
from bench.process.redact import shareable
from bench.runs import record_parts as parts
from bench.runs.renamed import modern_row

SCHEMA_VERSION = 5  # which has other names for what 4 holds (bench.runs.renamed)
CHECKSUMMED = 4  # records of schema 3 have no checksums: they are reported, and never taken for a finished run
READABLE = (3, 4, 5)
RECORD, CURVE, ALIGNMENT = "record.json", "curve.jsonl", "alignment.jsonl"
OUTCOMES, WEIGHTS = "outcomes.jsonl.gz", "trained.safetensors"
LOSS = "loss"  # of a scored dataset's targets: the metric, and the filter of its items
HASH_DIGITS = 8  # of an item's hash, by which a study's items are told apart, and which a compacted study keeps
_LIKELIHOOD = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?")
ALL_LAYERS = "all"  # in alignment.jsonl, the row over all adapted layers taken as one vector
Status = Literal["completed", "failed", "interrupted"]
COMPLETED: Final = "completed"
FAILED: Final = "failed"
INTERRUPTED: Final = "interrupted"
# What two runs of one configuration may differ in: when and how long, and how much memory.
TIMING = ("seconds", "total_seconds", "peak_bytes", "read", "attempts", "registration", "files")


class CorruptRecordError(ValueError):
    """A record that cannot be read or lacks what a record holds."""


class Record(BaseModel):
    """One run; the fields are record.json's.

    Attributes:
        run_id: names the folder; a hash of all that can change the numbers is part of it.
        status: completed or failed; interrupted in the folder of a run that is to be resumed.
        label: the method as its paper prints it, and the system beside it: "LoRA-GA + LoRA-Pro".
        config: the full configuration.
        identity: the part of it that can change the numbers; runs equal but for the seed are one cell of a table.
        environment: code, versions, hardware and settings.
        command: the command line that makes exactly this run.
        model, data: name, revision or hash, and size of what was used.
        phases: cost of load, calibrate, initialise, curvature, train, measure and score; of a resumed run, the training
            that its result needed, the curvature as it was measured, and the other phases as they were done last.
        curvature: at step 0; None where it was not asked for, and in a record from before it was measured.
        training: None where nothing is trained.
        retention: None where nothing is trained, or nothing was measured.
        attempts: when the run was begun and resumed, and at which step.
        registration: hashes of the study's file, protocol and claims when the run was planned.
        files: size and sha256 of each file beside the record.
    """

    model_config = ConfigDict(strict=True, extra="forbid", validate_assignment=True)

    run_id: parts.FileName
    status: Status
    label: str
    config: parts.Config
    identity: dict[str, Any]
    environment: parts.Environment
    command: str | None = None
    model: parts.ModelFacts = parts.ModelFacts()
    data: parts.DataFacts = parts.DataFacts()
    phases: dict[str, parts.PhaseCost] = {}
    initialization: parts.InitializationFacts = parts.InitializationFacts()
    curvature: parts.CurvatureFacts | None = None
    training: parts.TrainingFacts | None = None
    scores: list[parts.Score] = []
    scoring: parts.ScoringFacts = parts.ScoringFacts()
    retention: parts.RetentionFacts | None = None
    error: parts.ErrorFacts | None = None
    attempts: list[dict[str, Any]] = []
    registration: dict[str, str] = {}
    files: dict[parts.FileName, parts.FileFacts] = {}
    schema_version: int = SCHEMA_VERSION

    @field_validator("training", mode="before")
    @classmethod
    def _none_if_empty(cls, value: Any) -> Any:
        return value or None  # schemas 3 and 4 write {}

    @property
    def method(self) -> str:
        """The method's name and, behind a plus, that of a system: "lora_ga+lora_pro"."""
        system = self.config.system.name
        return self.config.method.name if system == "none" else f"{self.config.method.name}+{system}"

    @property
    def eval_loss(self) -> float | None:
        """After the last step, in nats; None where nothing was trained or it was not measured."""
        return self.training.eval_loss if self.training else None

    @property
    def forgetting(self) -> float | None:
        """By how much the loss on text of the pretraining kind rose, in nats per token; None where it is not known."""
        return self.retention.forgetting if self.retention else None

    @property
    def init_seconds(self) -> float:
        """Calibration and factorisation; calibration costs what computing it took, also where the cache was read."""
        calibration = self.initialization.calibration
        return (calibration.total_seconds if calibration else 0.0) + self.seconds("initialise")

    def seconds(self, phase: str) -> float:
        """Wall time of a phase; 0 for one that the run did not have."""
        return self.phases[phase].seconds if phase in self.phases else 0.0

    def peak_bytes(self, phase: str) -> int | None:
        """Highest memory of a phase; None for one that the run did not have."""
        return self.phases[phase].peak_bytes if phase in self.phases else None


def read_record(folder: Path) -> Record:
    """Reads and checks record.json of a run's folder.

    Raises:
        CorruptRecordError: record.json is missing, not JSON, of another schema, changed since it was written, or a
            field is missing or of another type.
    """
    path = folder / RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = content["schema_version"]
        if schema not in READABLE:
            known = ", ".join(map(str, READABLE))
            raise CorruptRecordError(f"{path}: schema {str(schema)[:20]!r}, this version reads {known}")
        if schema >= CHECKSUMMED and content.pop("checksum") != _checksum(content):
            raise CorruptRecordError(f"{path}: changed since it was written: its checksum is another")
        return Record.model_validate(content)
    except CorruptRecordError:
        raise
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part)[:40] for part in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise CorruptRecordError(" ".join(f"{path}: {where}: {first['msg'].lower()}{more}".split())) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptRecordError(f"{path}: {type(error).__name__}: {error}") from None


def write_record(folder: Path, record: Record, indent: int | None = 1) -> None:
    """Writes record.json with its checksum, as a whole or not at all; secrets of the environment are redacted.

    Args:
        indent: spaces a level; None for one line.
    """
    content = json.loads(json.dumps(shareable(record.model_dump())))  # as it will be read
    content["checksum"] = _checksum(content)
    separators = None if indent else (",", ":")
    write_whole(folder / RECORD, json.dumps(content, indent=indent, separators=separators) + "\n")


def _checksum(content: dict[str, Any]) -> str:
    """Of a record without its checksum, its keys in their order."""
    return hashlib.sha256(json.dumps(content, separators=(",", ": ")).encode()).hexdigest()


def identity_digest(identity: dict[str, Any] | str) -> str:
    """The end of a run's id: a hash of everything that can change its numbers, also as JSON with sorted keys."""
    text = identity if isinstance(identity, str) else json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def describe_files(folder: Path) -> dict[str, parts.FileFacts]:
    """Size and sha256 of every file of a run's folder but the record itself."""
    found = (path for path in sorted(folder.iterdir()) if path.is_file() and path.name != RECORD)
    return {path.name: parts.FileFacts(sha256=fresh_sha256(path), bytes=path.stat().st_size) for path in found}


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
        same = S_ISREG(stat.st_mode) and stat.st_size == described.bytes
        if not same or (content and fresh_sha256(Path(path)) != described.sha256):
            found.append(name)
    return found


def without_timing(values: Any) -> Any:
    """What must be the same whenever and however often a run is done: all but its TIMING, at any depth.

    A curve holds seconds, so the checksums in `files` are others each time.
    """
    if isinstance(values, dict):
        return {key: without_timing(value) for key, value in values.items() if key not in TIMING}
    return [without_timing(value) for value in values] if isinstance(values, list) else values


def as_kept(row: dict[str, Any]) -> dict[str, Any]:
    """A row of outcomes as a compacted study keeps it: a short hash, and likelihoods of choices to six digits."""
    kept = row | {"doc_hash": row["doc_hash"][:HASH_DIGITS]}
    if row.get("choice") is None:  # the response is a text that the model wrote
        return kept
    return kept | {"response": _LIKELIHOOD.sub(lambda number: f"{float(number[0]):.6g}", row["response"])}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of curve.jsonl, alignment.jsonl or outcomes.jsonl.gz; none where the file does not exist.

    Where only curve.jsonl.gz exists, which bench.compact writes, that is read.

    Raises:
        CorruptRecordError: the file is torn, or a row is no JSON object.
    """
    if not path.is_file():
        path = path.with_name(f"{path.name}.gz")
        if not path.is_file():
            return []
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            rows = [json.loads(line) for line in file.read().decode().splitlines()]
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise CorruptRecordError(f"{path}: {type(error).__name__}: {error}") from None
    if not all(isinstance(row, dict) for row in rows):
        raise CorruptRecordError(f"{path}: a line is no row of named values")
    return [modern_row(row) for row in rows]
