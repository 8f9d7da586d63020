"""Makes a finished study small enough to be kept in a repository.

Curves and alignment are compressed, hashes of items and likelihoods shortened, weights and files of Weights & Biases
deleted. Of a run that served only to choose a learning rate nothing but the record is kept. Absolute folders of data,
which other machines do not have, are called FOLDER. A report is the same before and after.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

from bench.process.files import write_whole
from bench.runs.record import (
    ALIGNMENT,
    CHECKSUMMED,
    CURVE,
    OUTCOMES,
    RECORD,
    WEIGHTS,
    Record,
    as_kept,
    describe_files,
    read_record,
    read_rows,
    write_record,
)
from bench.study.plan_file import SEARCH, SELECT, read_plan, run_folders


def copied(folder: Path, target: Path) -> None:
    """Copies a study's folder without weights, unfinished runs and files of Weights & Biases.

    Raises:
        ValueError: the folder holds no run, or the target exists.
    """
    if not run_folders(folder):
        raise ValueError(f"{folder} holds no run")
    if target.exists():
        raise ValueError(f"{target} exists; delete it first")
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(WEIGHTS, ".*", "wandb"))


def compact(folder: Path) -> tuple[int, int]:
    """Compacts the runs in a study's folder and returns its size before and after, in bytes.

    Raises:
        ValueError: the folder holds no run, or its plan cannot be read.
    """
    runs = run_folders(folder)
    if not runs:
        raise ValueError(f"{folder} holds no run")
    before = _size(folder)
    plan = read_plan(folder)
    scored = {run.run_id for run in plan.runs if run.stage not in (SEARCH, SELECT)} if plan else set()
    chosen = {run.run_id for stage in (SEARCH, SELECT) for run in plan.of(stage)} - scored if plan else set()
    for run in runs:
        _compact_run(run, keeps_rows=run.name not in chosen)
    shutil.rmtree(folder / "wandb", ignore_errors=True)
    return before, _size(folder)


def _compact_run(run: Path, keeps_rows: bool) -> None:
    """Writes what is kept first, then the record that names it, and deletes the rest last: it can be interrupted."""
    record = read_record(run)
    gone = [WEIGHTS] if keeps_rows else [WEIGHTS, OUTCOMES, CURVE, ALIGNMENT, f"{CURVE}.gz", f"{ALIGNMENT}.gz"]
    if keeps_rows:
        if rows := read_rows(run / OUTCOMES):
            _pack(run / OUTCOMES, "".join(json.dumps(as_kept(row)) + "\n" for row in rows).encode())
        for name in (CURVE, ALIGNMENT):
            if (run / name).is_file():
                _pack(run / f"{name}.gz", (run / name).read_bytes())
                gone.append(name)
    if record.schema_version < CHECKSUMMED:  # it names no files
        content = json.loads((run / RECORD).read_text(encoding="utf-8"))
        write_whole(run / RECORD, json.dumps(content, separators=(",", ":")) + "\n")
    else:
        kept = {name: one for name, one in describe_files(run).items() if name not in gone or name == WEIGHTS}
        _call_folders_alike(record)
        record.files = {WEIGHTS: record.files[WEIGHTS]} | kept if WEIGHTS in record.files else kept
        write_record(run, record, indent=None)
    for name in gone:
        (run / name).unlink(missing_ok=True)


def _call_folders_alike(record: Record) -> None:
    for holder, key in (
        ((record.config.model_extra or {}).get("data"), "root"),
        (record.config.task.model_extra, "data_root"),
    ):
        if holder and Path(holder.get(key) or "").is_absolute():
            holder[key] = "FOLDER"  # as in the run's command


def _pack(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content, 9, mtime=0))  # without the time, equal rows make equal bytes


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
