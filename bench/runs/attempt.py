"""One attempt at a run: where its rows, weights and checkpoints go, and how far it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.process import provenance, ranks, signals
from bench.process.hashes import tokenizer_sha256
from bench.runs.checkpoint import Checkpoint, Checkpointing, Checkpoints
from bench.runs.record import ALIGNMENT, CURVE, WEIGHTS

if TYPE_CHECKING:
    from bench.model.load import LoadedModel
    from bench.runs.folder import Workspace
    from bench.tasks import PreparedTask
    from bench.train.probe import Row as AlignmentRow

Rows = Callable[[dict[str, Any], "list[AlignmentRow]"], None]
_ATTEMPTS = "attempts.json"


class Attempt:
    """What the stages of a run tell of themselves, and where they put what they leave.

    Args:
        workspace: of the run.
        settings: of checkpoints.
        mirror: is given each row too.
        scratch: takes the weights of a process that keeps nothing, because another of the same run does; else None.

    Attributes:
        checkpoints: None until it is known what the run is made from.
        found: the checkpoint from which training goes on.
    """

    def __init__(
        self, workspace: Workspace, settings: Checkpointing, mirror: Rows, scratch: Path | None = None
    ) -> None:
        self._workspace, self._settings, self._mirror, self._scratch = workspace, settings, mirror, scratch
        self._writes = scratch is None
        self.checkpoints: Checkpoints | None = None
        self.found: Checkpoint | None = None
        self.history: list[dict[str, Any]] = []
        if self._writes:
            self.history = [*_read(workspace.path), {"started": _now(), "from_step": 0}]
            self._keep()

    @property
    def weights_path(self) -> Path:
        """Where the weights are to be saved."""
        return self._workspace.weights_path if self._scratch is None else self._scratch / WEIGHTS

    def enter(self, phase: str) -> None:
        """A phase begins; here a run can be stopped."""
        signals.stop_if_requested()
        self._workspace.tell(phase=phase)
        self._workspace.check()

    def made_from(self, loaded: LoadedModel, task: PreparedTask) -> None:
        """What the run is made from is known: looks for a checkpoint that was made from the same.

        Raises:
            ChangedDataError: there is one that was made from other data, another model or another tokenizer.
        """
        stamp = {
            "code": provenance.code_sha256(),
            "stack": provenance.fingerprint(),
            "num_processes": ranks.size(),
            "data": task.sha256,
            "model": loaded.revision,
            "tokenizer": tokenizer_sha256(loaded.tokenizer),
        }
        self.checkpoints = Checkpoints(self._workspace.checkpoints, self._settings, stamp)
        self.found = ranks.broadcast_object(self.checkpoints.newest() if self._writes else None)
        if self.found is not None and self._writes:
            self.history[-1]["from_step"] = self.found.step
            self._keep()

    def log(self, row: dict[str, Any], alignment: list[AlignmentRow]) -> None:
        """A finished row of the curve, and the alignment rows of the same step; either may be empty."""
        if self._writes:
            self._workspace.append(CURVE, [row] if row else [])
            self._workspace.append(ALIGNMENT, [asdict(measured) for measured in alignment])
            self._mirror(row, alignment)

    def restart(self, curve: list[dict[str, Any]], alignment: list[AlignmentRow]) -> None:
        """All rows up to a checkpoint's step, in place of those that were logged before."""
        if self._writes:
            self._workspace.rewrite(CURVE, curve)
            self._workspace.rewrite(ALIGNMENT, [asdict(measured) for measured in alignment])

    def step(self, number: int, num_steps: int, seconds: float) -> None:
        """After each step of training.

        Raises:
            LeaseLostError: another process has taken the run over.
        """
        before = self.found.step if self.found else 0
        spent = seconds - (self.found.journal["seconds"] if self.found else 0.0)
        each = spent / max(1, number - before)
        left = round((num_steps - number) * each, 1)
        self._workspace.tell(step=number, num_steps=num_steps, seconds_left=left)
        self._workspace.heed()

    def _keep(self) -> None:
        (self._workspace.path / _ATTEMPTS).write_text(json.dumps(self.history), encoding="utf-8")


def _read(folder: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads((folder / _ATTEMPTS).read_text(encoding="utf-8"))
        return found if isinstance(found, list) else []
    except (OSError, ValueError, RecursionError):
        return []


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
