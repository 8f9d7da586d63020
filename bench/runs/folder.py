"""The folder of a run: runs/STUDY/RUN_ID when it has ended, the hidden runs/STUDY/.RUN_ID while it is worked on.

A run that has ended gets its own name by one rename, so that a reader never sees a part of it (bench.runs.attempt).
Checkpoints stay in the hidden workspace of a run that was killed, interrupted or failed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.process.provenance import fingerprint
from bench.process.redact import without_secrets
from bench.runs import checkpoint
from bench.runs.lease import is_held
from bench.runs.record import (
    CHECKSUMMED,
    COMPLETED,
    RECORD,
    WEIGHTS,
    CorruptRecordError,
    Record,
    differing_files,
    identity_digest,
    read_record,
)

if TYPE_CHECKING:
    from bench.config import Run

BEGUN = "begun.json"  # in the workspace: the run's identity, the places of data and model, its W&B id and its attempts


class RunFolder:
    """The paths of one run, and what they hold; writes nothing but copies.

    Attributes:
        path: runs/STUDY/RUN_ID.
        workspace: runs/STUDY/.RUN_ID.
    """

    def __init__(self, results_dir: Path, study: str, run_id: str) -> None:
        self.path = results_dir / study / run_id
        self.workspace = self.path.with_name(f".{run_id}")

    @classmethod
    def of(cls, run: Run) -> RunFolder:
        """The folder of a cell."""
        return cls(run.results_dir, run.study, run.run_id)

    @property
    def record(self) -> Record | None:
        """The record of the completed or failed run; None if there is none that can be read."""
        return _record(self.path)

    @property
    def interrupted(self) -> Record | None:
        """The record that a signal has left in the workspace."""
        return _record(self.workspace)

    @property
    def done(self) -> bool:
        """True if the run was completed on this machine."""
        record = self.record
        return record is not None and record.status == COMPLETED and self.holds(record)

    def holds(self, record: Record) -> bool:
        """True if a record has checksums and is of this run, and its weights and its other files have their sizes.

        bench.verify compares the checksums too.
        """
        return (
            record.schema_version >= CHECKSUMMED
            and self.is_of(record)
            and WEIGHTS in record.files
            and (self.path / WEIGHTS).is_file()
            and not differing_files(self.path, record, content=False)
        )

    def is_of(self, record: Record) -> bool:
        """True if a record has this folder's name as its run_id, and its identity hashes to the end of that name."""
        name = self.path.name
        return record.run_id == name and name.endswith(f"-{identity_digest(record.identity)}")

    def copy_of_another_study(self, results_dir: Path) -> Path | None:
        """Copies the same run from another study below results_dir, if one was done on the same stack.

        Returns:
            The folder that was copied; None if there is none.
        """
        for found in sorted(results_dir.rglob(f"{self.path.name}/{RECORD}")):
            other = RunFolder(found.parent.parent.parent, found.parent.parent.name, found.parent.name)
            record = other.record
            if other.done and record is not None and record.environment.fingerprint == fingerprint():
                copied = self.path.with_name(f".{self.path.name}.copy")
                shutil.rmtree(copied, ignore_errors=True)
                shutil.copytree(other.path, copied)
                shutil.rmtree(self.path, ignore_errors=True)
                copied.rename(self.path)
                return other.path
        return None

    def refuse_changed_data(self, identity: dict[str, Any], places: Mapping[str, str | None]) -> None:
        """Refuses a run if the same cell was interrupted, and the data or the model in the same place changed since.

        A failed run guards nothing, nor does one that another process has; a cell with another data.root or model.path
        is another cell.

        Args:
            identity: the run's.
            places: where its data and its model are, by key.

        Raises:
            ChangedDataError: names what changed and the remedy.
        """
        prefix = self.workspace.name.rpartition("-")[0]
        for other in sorted(self.path.parent.glob(f"{prefix}-*")):
            found = read_begun(other)
            begun = found.get("identity")
            if begun is None or other == self.workspace or not (other / checkpoint.FOLDER).is_dir():
                continue
            if found.get("places", places) != places or is_held(other):
                continue
            if _record(other.with_name(other.name[1:])) is not None:  # it has ended, and failed
                continue
            if _without_contents(begun) != _without_contents(without_secrets(identity)):
                continue
            if changed := [name for name, now in _contents(identity).items() if _contents(begun).get(name) != now]:
                raise checkpoint.ChangedDataError(
                    f"{' and '.join(changed)} changed since {other.name[1:]} was begun: give it what it was begun "
                    f"with, or delete {other} to begin it anew"
                )


def read_begun(workspace: Path) -> dict[str, Any]:
    """What earlier attempts have noted in an unfinished run's workspace: what Attempt.begin notes, or {}."""
    try:
        found = json.loads((workspace / BEGUN).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _record(folder: Path) -> Record | None:
    try:
        return read_record(folder)
    except CorruptRecordError:
        return None


def _contents(identity: dict[str, Any]) -> dict[str, Any]:
    """The hashes of the data and of the model's files, by name."""
    datasets = {name: one.get("content") for name, one in identity["task"]["datasets"].items()}
    return {**datasets, "model": identity["model"].get("content")}


def _without_contents(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_contents(one) for key, one in value.items() if key != "content"}
    return value
