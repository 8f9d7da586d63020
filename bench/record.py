"""What a run leaves behind: results/<study>/<run_id>/ with record.json, the curves, the outcomes and the weights.

Imports no torch: reports read records on any machine. A folder is written under another name and renamed when it is
complete, so that what stands under its own name is whole. The weights are not meant to be committed; a folder
without them holds a result to read, not a finished run of this machine, and the run is done again.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import bench

SCHEMA_VERSION = 3
RECORD, CURVE, ALIGNMENT = "record.json", "curve.jsonl", "alignment.jsonl"
OUTCOMES, WEIGHTS = "outcomes.jsonl.gz", "trained.safetensors"
HASH_DIGITS = 16  # of an item's hash, by which items are told apart and a compacted study keeps
ALL_LAYERS = "all"  # in alignment.jsonl, the row over all adapted layers taken as one vector
COMPLETED, FAILED = "completed", "failed"
_STACK = ("torch", "transformers", "peft", "accelerate", "lm-eval", "datasets")


class CorruptRecordError(ValueError):
    """A record that cannot be read or lacks what a record holds."""


@dataclass
class Record:
    """One run; the fields are record.json's.

    Attributes:
        run_id: names the folder; a hash of all that can change the numbers is part of it.
        status: completed or failed.
        label: the method as its paper prints it.
        config: the run's full configuration.
        identity: the part of it that can change the numbers; runs equal but for the seed are one cell of a table.
        environment: code revision, versions, hardware, and `fingerprint`, a hash of what makes numbers comparable.
        model, data: name, revision or hash, and size of what was used; of the data also what was left out, cut, or
            found in both training and test.
        phases: seconds and peak_bytes of load, calibrate, initialise, train, measure and score.
        initialization: trainable parameters, logit change at step 0, calibration samples, and a report a layer.
        training: steps, tokens, seconds, final losses; empty where nothing is trained.
        scores: task, metric, value, stderr, num_examples, higher_is_better and the majority class's value each.
        scoring: the batch size that was used, prompts that were cut, and whether merged weights score alike.
        error: type and message of a failed run, and the step where one is known.
    """

    run_id: str
    status: str
    label: str
    config: dict[str, Any]
    identity: dict[str, Any]
    environment: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    phases: dict[str, Any] = field(default_factory=dict)
    initialization: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)
    scoring: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    schema_version: int = SCHEMA_VERSION


def read_record(folder: Path) -> Record:
    """The record of a run's folder.

    Raises:
        CorruptRecordError: record.json is missing, not JSON, of another schema, or lacks a field.
    """
    path = folder / RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema_version"] != SCHEMA_VERSION:
            raise CorruptRecordError(f"{path}: schema {content['schema_version']}, this version reads {SCHEMA_VERSION}")
        return Record(**content)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise CorruptRecordError(f"{path}: {type(error).__name__}: {error}") from None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of curve.jsonl, alignment.jsonl or outcomes.jsonl.gz; none where the file does not exist.

    Where there is curve.jsonl.gz instead (bench.compact), it is read.

    Raises:
        CorruptRecordError: the file is torn.
    """
    if not path.is_file():
        path = path.with_name(f"{path.name}.gz")
        if not path.is_file():
            return []
    try:
        text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]
    except (gzip.BadGzipFile, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CorruptRecordError(f"{path}: {type(error).__name__}: {error}") from None


class RunFolder:
    """The folder of one run in the making.

    Used as a context: leaving it without `complete` or `fail` leaves nothing behind.
    """

    def __init__(self, results_dir: Path, study: str, run_id: str) -> None:
        self.path = results_dir / study / run_id
        self._temporary: Path | None = None

    @property
    def done(self) -> bool:
        """Whether the run was completed here: a record that says so, beside its weights."""
        if not (self.path / WEIGHTS).is_file():
            return False
        try:
            return read_record(self.path).status == COMPLETED
        except CorruptRecordError:
            return False

    def copy_of_another_study(self, results_dir: Path) -> Path | None:
        """Takes over the same run, done on the same stack in another study below results_dir; returns its folder."""
        for found in sorted(results_dir.rglob(f"{self.path.name}/{RECORD}")):
            other = RunFolder(found.parent.parent.parent, found.parent.parent.name, found.parent.name)
            if other.done and read_record(other.path).environment["fingerprint"] == fingerprint():
                shutil.rmtree(self.path, ignore_errors=True)
                shutil.copytree(other.path, self.path)
                return other.path
        return None

    def __enter__(self) -> RunFolder:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
        return self

    def __exit__(self, *_: object) -> None:
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    @property
    def weights_path(self) -> Path:
        """Where the weights are to be saved before `complete`."""
        assert self._temporary is not None, "the folder is not open"
        return self._temporary / WEIGHTS

    def append(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """Adds rows to curve.jsonl or alignment.jsonl as they come, so that a failed run keeps its curve."""
        assert self._temporary is not None, "the folder is not open"
        with (self._temporary / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def close(self, record: Record, outcomes: Iterable[dict[str, Any]] = ()) -> None:
        """Writes outcomes and record and puts the folder under its own name, in place of an earlier one."""
        assert self._temporary is not None, "the folder is not open"
        text = "".join(json.dumps(outcome, default=str) + "\n" for outcome in outcomes)
        if text:
            # mtime 0: equal outcomes give equal bytes
            (self._temporary / OUTCOMES).write_bytes(gzip.compress(text.encode(), mtime=0))
        (self._temporary / RECORD).write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
        self._temporary.chmod(0o755)  # mkdtemp's folder is the user's alone
        if self.path.exists():
            shutil.rmtree(self.path)
        self._temporary.rename(self.path)
        self._temporary = None


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


def environment() -> dict[str, Any]:
    """Code, versions and hardware of this process; `fingerprint` hashes what can move a number."""
    return {
        "code": _code(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in (*_STACK, "hydra-core", "wandb", "pandas", "numpy")},
        "hardware": _hardware(),
        "fingerprint": fingerprint(),
    }


def fingerprint() -> str:
    """A hash of the versions and the hardware that can move a number; with a GPU the host's processor is none."""
    hardware = _hardware()
    stack = {name: _version(name) for name in _STACK} | {
        k: v for k, v in hardware.items() if k != "cpu" or not hardware["gpu"]
    }
    return hashlib.sha256(json.dumps(stack, sort_keys=True).encode()).hexdigest()[:12]


def _hardware() -> dict[str, Any]:
    import torch

    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "num_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _code() -> dict[str, Any]:
    """Version, and for a checkout its commit and whether files other than results differ from it."""
    root = Path(bench.__file__).parent.parent

    def git(*arguments: str) -> str | None:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    known = {"version": bench.__version__, "revision": None, "dirty": None}
    if shutil.which("git") is None or not (root / ".git").exists() or (revision := git("rev-parse", "HEAD")) is None:
        return known
    return known | {"revision": revision, "dirty": bool(git("status", "--porcelain", "--", ".", ":!results"))}


def _show_warning(others: Callable[..., None], message: Warning | str, category: type, path: str, *rest: Any) -> None:
    """What the suite warns of is for its user: one line, without the place in the code."""
    if category is UserWarning and Path(path).is_relative_to(Path(bench.__file__).parent):
        print(f"warning: {message}", file=sys.stderr, flush=True)
    else:
        others(message, category, path, *rest)


def quiet_environment() -> None:
    """Settings that libraries read when they are imported: no telemetry, no forks of the tokenizer."""
    # PEFT reads an attribute that transformers will rename; nothing that a user of the suite can mend.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
    warnings.showwarning = functools.partial(_show_warning, warnings.showwarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
