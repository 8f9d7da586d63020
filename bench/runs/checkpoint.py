"""Checkpoints of training that can be trusted: sealed with the checksums of their files, which are written last.

transformers.Trainer writes a folder checkpoint-STEP file by file; if it is killed in between, the folder is incomplete.
A checkpoint is used only if it is sealed and every file has its checksum; otherwise the checkpoint before it is used.
"""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, NonNegativeFloat, PositiveInt
from pydantic.dataclasses import dataclass

from bench.process.files import write_whole
from bench.process.hashes import fresh_sha256

FOLDER, SEAL, JOURNAL = "checkpoints", "sealed.json", "journal.json"
_PREFIX = "checkpoint-"
# Of a checkpoint's stamp: if one of these has changed, training is refused and not begun anew.
DATA = ("data", "model", "tokenizer")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Checkpointing:
    """The `checkpoint` key: how often checkpoints are written. It changes no number.

    Attributes:
        minutes: between two checkpoints; one more is written after the last step. 0: after every step.
        steps: between two checkpoints, instead of minutes.
        keep: number of checkpoints kept, in case the newest cannot be read.
    """

    minutes: NonNegativeFloat
    steps: PositiveInt | None
    keep: PositiveInt

    def due(self, step: int, last: bool, minutes: float) -> bool:
        """True if a checkpoint is to be written after this step.

        Args:
            step: number of steps done.
            last: whether it is the last step.
            minutes: since the checkpoint before, or since training began.
        """
        return last or (step % self.steps == 0 if self.steps else minutes >= self.minutes)


@plain_dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files have their checksums.

    Attributes:
        path: its folder.
        step: number of steps done.
        journal: rows of curve and alignment up to that step, and the seconds that they took.
    """

    path: Path
    step: int
    journal: dict[str, Any]


class ChangedDataError(ValueError):
    """The data, model or tokenizer of an unfinished run have changed since it was begun."""


@plain_dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        folder: the Trainer's output folder.
        settings: how often checkpoints are written, and how many are kept.
        stamp: what the run is made from: code, stack and num_processes, which must be the same for a bit-identical
            resume, and hashes of data, model and tokenizer.
    """

    folder: Path
    settings: Checkpointing
    stamp: dict[str, Any]

    def seal(self, step: int, journal: dict[str, Any]) -> None:
        """Writes the journal and the seal of a folder that the Trainer has written; deletes the oldest checkpoints.

        Raises:
            OSError: such as a full disk.
        """
        path = self._path(step)
        write_whole(path / JOURNAL, json.dumps(journal))
        files = {name: fresh_sha256(path / name) for name in _files(path)}
        write_whole(path / SEAL, json.dumps({"step": step, "stamp": self.stamp, "files": files}))
        for old in self._steps()[: -self.settings.keep]:
            shutil.rmtree(self._path(old), ignore_errors=True)

    def discard(self, step: int) -> None:
        """Deletes a checkpoint that could not be sealed."""
        shutil.rmtree(self._path(step), ignore_errors=True)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is intact; others that are newer are named on stderr and deleted.

        Raises:
            ChangedDataError: data, model or tokenizer are not those that the run was begun with.
        """
        for step in reversed(self._steps()):
            path = self._path(step)
            try:
                seal, journal = self._read(path)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                print(f"{path.name} is left out, not whole: {error}", file=sys.stderr, flush=True)
                shutil.rmtree(path, ignore_errors=True)
                continue
            if changed := [name for name in DATA if seal["stamp"].get(name) != self.stamp.get(name)]:
                raise ChangedDataError(
                    f"{' and '.join(changed)} changed since this run was begun ({path.name}): give it what it was "
                    f"begun with, or delete {self.folder.parent} to begin it anew"
                )
            if seal["stamp"] == self.stamp:
                return Checkpoint(path, step, journal)
            others = [name for name, value in self.stamp.items() if seal["stamp"].get(name) != value]
            print(f"{path.name} is left out, made with another {', '.join(others)}", file=sys.stderr, flush=True)
            shutil.rmtree(path, ignore_errors=True)
        return None

    def _read(self, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        seal = json.loads((path / SEAL).read_text(encoding="utf-8"))
        if set(_files(path)) != set(seal["files"]):
            raise ValueError("a file is missing or was added")
        for name, expected in seal["files"].items():
            if fresh_sha256(path / name) != expected:
                raise ValueError(f"{name} is not what was written")
        if seal["step"] != _step(path):
            raise ValueError("its seal is of another checkpoint")
        check_tensors_only(path)
        return seal, json.loads((path / JOURNAL).read_text(encoding="utf-8"))

    def _path(self, step: int) -> Path:
        return self.folder / f"{_PREFIX}{step}"

    def _steps(self) -> list[int]:
        """The steps of all checkpoint folders, ascending, intact or not."""
        return sorted(_step(path) for path in self.folder.glob(f"{_PREFIX}*/") if _step(path) >= 0)


def newest_sealed(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """Step and journal of the newest checkpoint with a seal, whose checksums are not looked at; None without one."""
    for path in sorted(folder.glob(f"{_PREFIX}*/"), key=_step, reverse=True):
        with suppress(OSError, ValueError):
            if (path / SEAL).is_file():
                return _step(path), json.loads((path / JOURNAL).read_text(encoding="utf-8"))
    return None


def check_tensors_only(path: Path) -> None:
    """Refuses torch files that would run code when they are loaded, even if a seal names them; reads no tensor.

    Raises:
        ValueError: a file holds more than tensors and plain values, or is no torch file.
    """
    import torch
    from transformers.trainer_pt_utils import safe_globals

    for file in sorted((*path.rglob("*.pt"), *path.rglob("*.pth"))):
        try:
            with safe_globals():  # NumPy's random state, which the Trainer allows in rng_state.pth
                torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        except Exception:  # pickle's, zip's, torch's own; their texts advise to load it all the same
            raise ValueError(f"{file.name} holds more than tensors and plain values, and is not loaded") from None


def _step(path: Path) -> int:
    number = path.name.removeprefix(_PREFIX)
    return int(number) if number.isdecimal() else -1


def _files(path: Path) -> list[str]:
    """The names of a checkpoint's files but its seal."""
    names = (file.relative_to(path).as_posix() for file in sorted(path.rglob("*")) if file.is_file())
    return [name for name in names if name != SEAL]
