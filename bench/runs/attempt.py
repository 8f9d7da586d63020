"""One attempt at a run, from lease to record: writes rows, weights and checkpoints into the hidden workspace."""

from __future__ import annotations

import gzip
import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from bench.process import provenance, ranks, signals
from bench.process.files import write_whole
from bench.process.hashes import tokenizer_sha256
from bench.process.phases import Phase
from bench.process.redact import without_secrets
from bench.runs import checkpoint
from bench.runs.checkpoint import Checkpoint, Checkpointing, Checkpoints
from bench.runs.folder import BEGUN, RunFolder, read_begun
from bench.runs.lease import LEASE, PROGRESS, Lease
from bench.runs.progress import STOPPED_AT, StoppedRunError
from bench.runs.record import (
    ALIGNMENT,
    COMPLETED,
    CURVE,
    OUTCOMES,
    RECORD,
    WEIGHTS,
    Record,
    describe_files,
    write_record,
)
from bench.runs.record_parts import CurvatureFacts

if TYPE_CHECKING:
    from bench.model.load import LoadedModel
    from bench.tasks import PreparedTask
    from bench.train.probe import Row as AlignmentRow

Rows = Callable[[dict[str, Any], "list[AlignmentRow]"], None]
_FINAL, _REPLACED = "final", "replaced"


@contextmanager
def held(folder: RunFolder, seconds: float, wait: bool) -> Iterator[Attempt | None]:
    """An attempt at a run while this process holds its lease; None if another process holds it.

    Args:
        folder: of the run.
        seconds: heartbeat timeout of the lease.
        wait: until the other process has ended.

    Raises:
        ValueError: a link is in the place of the run's folder, or the holder has another heartbeat timeout.
    """
    if folder.workspace.is_symlink() or folder.path.is_symlink():
        raise ValueError(f"{folder.path} is a link; a run's folder must be in its study's")
    lease = Lease(folder.workspace, seconds)
    if not lease.acquire(wait):
        yield None
        return
    try:
        yield Attempt(folder, lease)
    finally:
        with suppress(OSError):
            lease.release()
            folder.workspace.rmdir()  # if it holds nothing to resume from, and no other process has come


class Attempt:
    """What the stages of a run report to, and where they write.

    Args:
        folder: of the run.
        lease: held by this process; None in a process of rank > 0, which computes the same and writes nothing.
        scratch: a folder for the weights of a process without a lease.

    Attributes:
        path: the run's workspace.
        mirror: is given each row of the curve and the alignment rows of its step, as the workspace is.
        checkpoints: None before `made_from`.
        resume_from: the checkpoint from which training resumes, or None.
        curvature: at step 0: measured by this attempt or, with the rate that follows from it, by the one it resumes.
        kept_phases: what measuring it has cost.
        stop_at_step: of training, where this attempt ends; None: with the run.
        history: when this and earlier attempts began, from which step they went on, and where they were to stop.
        wandb_id: the id of the run's W&B run, the same for every attempt.
    """

    def __init__(self, folder: RunFolder, lease: Lease | None = None, scratch: Path | None = None) -> None:
        self.path = folder.workspace
        self._folder, self._lease, self._scratch = folder, lease, scratch
        self.mirror: Rows = lambda row, alignment: None
        self.checkpoints: Checkpoints | None = None
        self.resume_from: Checkpoint | None = None
        self.curvature: CurvatureFacts | None = None
        self.kept_phases: dict[str, Phase] = {}
        self.stop_at_step: int | None = None
        self.history: list[dict[str, Any]] = []
        self.wandb_id = uuid.uuid4().hex[:12]
        self._identity: dict[str, Any] = {}
        self._places: dict[str, str | None] = {}
        self._kept: dict[str, Any] | None = None

    @property
    def weights_path(self) -> Path:
        """Where the weights are to be saved."""
        return (self._scratch or self.path) / WEIGHTS

    def begin(self, identity: dict[str, Any], places: Mapping[str, str | None]) -> None:
        """Notes the attempt, and deletes what earlier ones have left beside their checkpoints.

        Args:
            identity: the run's.
            places: where its data and its model are, by key.

        Raises:
            ChangedDataError: the same cell was interrupted, and what is in these places changed since.
        """
        self._folder.refuse_changed_data(identity, places)
        begun, started = read_begun(self.path), datetime.now(UTC).isoformat(timespec="seconds")
        self._identity, self._places = without_secrets(identity), dict(places)
        self.wandb_id = begun.get("wandb_id", self.wandb_id)
        self._kept = begun.get("curvature")
        self.history = [*begun.get("attempts", []), {"started": started, "from_step": 0}]
        for name in (CURVE, ALIGNMENT, WEIGHTS, RECORD):
            (self.path / name).unlink(missing_ok=True)
        for name in (_FINAL, _REPLACED):
            shutil.rmtree(self.path / name, ignore_errors=True)
        self._note()

    def enter(self, phase: str) -> None:
        """A phase begins; here a run can be stopped.

        Raises:
            InterruptedRunError: a signal has come.
            LeaseLostError: another process has taken the run over.
        """
        signals.stop_if_requested()
        if self._lease is not None:
            self._lease.tell(phase=phase)
            self._lease.confirm()

    def made_from(self, loaded: LoadedModel, task: PreparedTask, settings: Checkpointing) -> None:
        """Looks for a checkpoint that was made from the same code, stack, model and data.

        Args:
            loaded: the run's model and tokenizer.
            task: the run's data.
            settings: how often checkpoints are written.

        Raises:
            ChangedDataError: there is one that was made from other data, another model or another tokenizer.
        """
        stamp = {
            "code": provenance.code_sha256(),
            "stack": provenance.fingerprint(),
            "num_processes": ranks.size(),
            "data": task.facts.sha256,
            "model": loaded.revision,
            "tokenizer": tokenizer_sha256(loaded.tokenizer),
        }
        self.checkpoints = Checkpoints(self.path / checkpoint.FOLDER, settings, stamp)
        self.resume_from = ranks.broadcast_object(self.checkpoints.newest() if self._lease is not None else None)
        kept = ranks.broadcast_object(self._kept if self._lease is not None and self.resume_from is not None else None)
        if kept:
            self.curvature = CurvatureFacts.model_validate(kept["facts"])
            self.kept_phases = {"curvature": Phase(**kept["cost"])}
        if self.resume_from is not None and self._lease is not None:
            self.history[-1]["from_step"] = self.resume_from.step
            self._note()

    def keep(self, found: CurvatureFacts, cost: Phase) -> None:
        """Notes the curvature at step 0 for this attempt and for those that resume it."""
        self.curvature, self.kept_phases = found, {"curvature": cost}
        self._kept = {"facts": found.model_dump(), "cost": asdict(cost)}
        if self._lease is not None:
            self._note()

    def log(self, row: dict[str, Any], alignment: list[AlignmentRow]) -> None:
        """Appends a row of the curve and the alignment rows of the same step; either may be empty."""
        if self._lease is not None:
            self.append(CURVE, [row] if row else [])
            self.append(ALIGNMENT, [asdict(measured) for measured in alignment])
            self.mirror(row, alignment)

    def restart(self, curve: list[dict[str, Any]], alignment: list[AlignmentRow]) -> None:
        """Replaces the rows that were logged by those up to a checkpoint's step."""
        if self._lease is not None:
            for name, rows in ((CURVE, curve), (ALIGNMENT, [asdict(measured) for measured in alignment])):
                (self.path / name).unlink(missing_ok=True)
                self.append(name, rows)

    def append(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """Adds rows to curve.jsonl or alignment.jsonl as they come, so that a failed run keeps its curve."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def step(self, number: int, num_steps: int, seconds: float) -> None:
        """Called after each step of training.

        Args:
            number: of steps done.
            num_steps: of the whole training.
            seconds: since training began, those of resumed attempts included.

        Raises:
            LeaseLostError: another process has taken the run over.
        """
        if self._lease is None:
            return
        resumed, spent = (self.resume_from.step, self.resume_from.journal["seconds"]) if self.resume_from else (0, 0.0)
        seconds_a_step = (seconds - spent) / max(1, number - resumed)
        seconds_left = round((num_steps - number) * seconds_a_step, 1)
        self._lease.tell(step=number, num_steps=num_steps, seconds_left=seconds_left)
        self._lease.raise_if_lost()

    def stop(self, step: int, num_steps: int, eval_loss: float) -> NoReturn:
        """Ends the attempt at run.stop_at_step, whose checkpoint has been written, and notes the eval loss there.

        Raises:
            StoppedRunError: always.
        """
        if self._lease is not None:
            self.history[-1] |= {STOPPED_AT: step, "num_steps": num_steps, "eval_loss": eval_loss}
            self._note()
        raise StoppedRunError(step, num_steps, eval_loss)

    def interrupt(self, record: Record) -> None:
        """Leaves the record of a run that a signal has stopped beside its checkpoints."""
        write_record(self.path, record)

    def close(self, record: Record, outcomes: Iterable[dict[str, Any]] = ()) -> None:
        """Writes outcomes and record, and puts all under the run's own name, in place of an earlier attempt's.

        The checkpoints of a failed run stay in the workspace.

        Raises:
            LeaseLostError: another process has taken the run over; nothing is replaced.
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
        if self._lease is not None:
            self._lease.confirm()
        if self._folder.path.exists():
            self._folder.path.rename(self.path / _REPLACED)
        final.rename(self._folder.path)
        shutil.rmtree(self.path / _REPLACED, ignore_errors=True)
        for path in self.path.iterdir() if record.status == COMPLETED else ():  # `held` deletes the lease
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name not in (LEASE, PROGRESS) and not path.name.startswith(f"{LEASE}."):
                path.unlink(missing_ok=True)

    def _note(self) -> None:
        begun = {
            "identity": self._identity, "places": self._places, "wandb_id": self.wandb_id, "attempts": self.history,
            "curvature": self._kept,
        }  # fmt: skip
        write_whole(self.path / BEGUN, json.dumps(begun))
