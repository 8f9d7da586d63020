"""The folder of a run: results/STUDY/RUN_ID once it is whole, the hidden results/STUDY/.RUN_ID while it is worked on.

Only who holds the lease writes into the workspace. What is whole is put under its own name by one rename, so that a
reader never sees a part of it. Checkpoints stay in the workspace of a run that was killed, interrupted or failed.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.process.provenance import fingerprint
from bench.process.redact import without_secrets
from bench.runs import checkpoint
from bench.runs.lease import Lease
from bench.runs.record import (
    ALIGNMENT,
    COMPLETED,
    CURVE,
    OUTCOMES,
    RECORD,
    SCHEMA_VERSION,
    WEIGHTS,
    CorruptRecordError,
    Record,
    describe_files,
    differing_files,
    identity_digest,
    read_record,
    write_record,
)

if TYPE_CHECKING:
    from bench.config import Run

_FINAL, _REPLACED, _WANDB = "final", "replaced", "wandb_id"


class RunFolder:
    """Where one run lies; makes nothing.

    Attributes:
        path: of the run when it is whole.
        workspace: of the run while it is not.
    """

    def __init__(self, results_dir: Path, study: str, run_id: str) -> None:
        self.path = results_dir / study / run_id
        self.workspace = self.path.with_name(f".{run_id}")

    @classmethod
    def of(cls, run: Run) -> RunFolder:
        """Where a cell lies."""
        return cls(run.results_dir, run.study, run.run_id)

    @property
    def record(self) -> Record | None:
        """What the run came to; None where it has not ended, or its record cannot be read."""
        return _record(self.path)

    @property
    def interrupted(self) -> Record | None:
        """What a signal left behind."""
        return _record(self.workspace)

    @property
    def done(self) -> bool:
        """Whether the run was completed here: a whole record says so, and all that it names is there."""
        record = self.record
        if record is None or record.schema_version < SCHEMA_VERSION:  # which has no checksums
            return False
        return record.status == COMPLETED and self.holds(record)

    def holds(self, record: Record) -> bool:
        """Whether a record is of this run, and beside it lie the weights and every other file at its size.

        Of this run: by its name and by the hash of its identity. bench.verify compares the files' checksums too.
        """
        return (
            self.is_of(record)
            and WEIGHTS in record.files
            and (self.path / WEIGHTS).is_file()
            and not differing_files(self.path, record, content=False)
        )

    def is_of(self, record: Record) -> bool:
        """Whether a record is of this very run."""
        name = self.path.name
        return record.run_id == name and name.endswith(f"-{identity_digest(record.identity)}")

    def copy_of_another_study(self, results_dir: Path) -> Path | None:
        """Takes over the same run, done on the same stack in another study below results_dir; returns its folder."""
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

    def refuse_other_data(self, identity: dict[str, Any]) -> None:
        """Refuses to begin a run whose twin, begun with other data or another model of the same name, is unfinished.

        Raises:
            ChangedDataError: names what changed and the remedy.
        """
        prefix = self.workspace.name.rpartition("-")[0]
        for other in sorted(self.path.parent.glob(f"{prefix}-*")):
            begun = _begun(other)
            if begun is None or other == self.workspace or not (other / checkpoint.FOLDER).is_dir():
                continue
            changed = _changed_contents(begun, identity)
            if changed and _without_contents(begun) == _without_contents(without_secrets(identity)):
                raise checkpoint.ChangedDataError(
                    f"{' and '.join(changed)} changed since {other.name[1:]} was begun: give it what it was begun "
                    f"with, or delete {other} to begin it anew"
                )


class Workspace:
    """A run in the making, held by a lease.

    Args:
        folder: of the run.
        lease: held.
    """

    def __init__(self, folder: RunFolder, lease: Lease | None = None) -> None:
        self.folder, self.path, self._lease = folder, folder.workspace, lease

    @property
    def weights_path(self) -> Path:
        """Where the weights are to be saved before `close`."""
        return self.path / WEIGHTS

    @property
    def checkpoints(self) -> Path:
        """Where training keeps its checkpoints."""
        return self.path / checkpoint.FOLDER

    @property
    def wandb_id(self) -> str | None:
        """The W&B run that an earlier attempt has begun."""
        path = self.path / _WANDB
        return path.read_text(encoding="utf-8").strip() if path.is_file() else None

    def begin(self, identity: dict[str, Any], wandb_id: str | None) -> None:
        """Notes what is begun, and takes away what an earlier attempt has left beside its checkpoints."""
        for name in (CURVE, ALIGNMENT, WEIGHTS, RECORD):
            (self.path / name).unlink(missing_ok=True)
        for name in (_FINAL, _REPLACED):
            shutil.rmtree(self.path / name, ignore_errors=True)
        (self.path / _IDENTITY).write_text(json.dumps(without_secrets(identity)), encoding="utf-8")
        if wandb_id is not None:
            (self.path / _WANDB).write_text(wandb_id, encoding="utf-8")

    def tell(self, **progress: Any) -> None:
        """How far the run is, for `python -m bench.status`."""
        if self._lease is not None:
            self._lease.tell(**progress)

    def check(self) -> None:
        """Refuses to go on with a run that another process has taken over."""
        if self._lease is not None:
            self._lease.check()

    def heed(self) -> None:
        """The same by what the heartbeat has seen, at no cost."""
        if self._lease is not None:
            self._lease.heed()

    def append(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """Adds rows to curve.jsonl or alignment.jsonl as they come, so that a failed run keeps its curve."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def rewrite(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """Puts the rows of a checkpoint in place of what came after it."""
        (self.path / name).unlink(missing_ok=True)
        self.append(name, rows)

    def close(self, record: Record, outcomes: Iterable[dict[str, Any]] = ()) -> None:
        """Writes outcomes and record, and puts all under the run's own name, in place of an earlier one.

        Checkpoints of a failed run stay.
        """
        final = self.path / _FINAL
        shutil.rmtree(final, ignore_errors=True)
        final.mkdir()
        for name in (CURVE, ALIGNMENT, WEIGHTS):
            if (self.path / name).is_file():
                (self.path / name).rename(final / name)
        text = "".join(json.dumps(outcome, default=str) + "\n" for outcome in outcomes)
        if text:
            (final / OUTCOMES).write_bytes(gzip.compress(text.encode(), mtime=0))  # equal outcomes give equal bytes
        record.files = describe_files(final)
        write_record(final, record)
        self.check()
        if self.folder.path.exists():
            self.folder.path.rename(self.path / _REPLACED)
        final.rename(self.folder.path)
        shutil.rmtree(self.path / _REPLACED, ignore_errors=True)
        if record.status == COMPLETED:
            self._clear()

    def interrupt(self, record: Record) -> None:
        """Leaves a record that says so beside the checkpoints; nothing under the run's own name."""
        write_record(self.path, record)

    def _clear(self) -> None:
        """Empties the workspace but for the lease, with which its holder also takes the folder away."""
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif not path.name.startswith("lease."):
                path.unlink(missing_ok=True)


@contextmanager
def held(folder: RunFolder, seconds: float, wait: bool) -> Iterator[Workspace | None]:
    """The workspace of a run, as long as one holds its lease; None where another one works on it.

    Args:
        seconds: without a sign for so long a holder counts as gone.
        wait: until the other one has ended.
    """
    if folder.workspace.is_symlink() or folder.path.is_symlink():
        raise ValueError(f"{folder.path} is a link; a run's folder lies in its study's")
    lease = Lease(folder.workspace, seconds)
    if not lease.acquire(wait):
        yield None
        return
    try:
        yield Workspace(folder, lease)
    finally:
        lease.release()
        with suppress(OSError):
            folder.workspace.rmdir()  # where nothing is left to resume, and nobody else has come


_IDENTITY = "identity.json"


def _record(folder: Path) -> Record | None:
    try:
        return read_record(folder)
    except CorruptRecordError:
        return None


def _begun(workspace: Path) -> dict[str, Any] | None:
    """The identity with which an unfinished run was begun."""
    try:
        found = json.loads((workspace / _IDENTITY).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else None
    except (OSError, ValueError, RecursionError):
        return None


def _contents(identity: dict[str, Any]) -> dict[str, Any]:
    """By name, the hashes of the data and of the model's files."""
    datasets = {name: one.get("content") for name, one in identity["task"]["datasets"].items()}
    return {**datasets, "model": identity["model"].get("content")}


def _changed_contents(begun: dict[str, Any], identity: dict[str, Any]) -> list[str]:
    try:
        before, now = _contents(begun), _contents(identity)
    except (KeyError, TypeError, AttributeError):
        return []
    return [name for name in now if before.get(name) != now[name]]


def _without_contents(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_contents(one) for key, one in value.items() if key != "content"}
    return value
