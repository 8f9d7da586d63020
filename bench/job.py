"""Around one run: skips what is done, keeps the folder and the W&B mirror, and turns an error into a record."""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import parallel, record, results
from bench.record import ALIGNMENT, COMPLETED, CURVE, RunFolder
from bench.track import Tracker

if TYPE_CHECKING:
    from bench.config import Run
    from bench.measure import Row as AlignmentRow
    from bench.results import Result

Sink = Callable[[dict[str, Any], "list[AlignmentRow]"], None]

# What this process has seen: run ids that failed, and W&B folders to upload.
failures: list[str] = []
offline: list[Path] = []


def execute(cfg: Run, run: Callable[[Run, RunFolder, Sink], Result], position: str) -> None:
    """Does one run, unless it is done; says in a line how it went.

    A pretrained model that another study has scored is not scored again: the run is copied.

    Args:
        cfg: the cell.
        run: the spine.
        position: "[3/21]", for the lines printed.
    """
    parallel.start()
    folder = RunFolder(cfg.results_dir, cfg.study, cfg.run_id)
    done = parallel.told_by_first(_found(cfg, folder) if parallel.rank() == 0 else None)
    if parallel.rank() > 0:
        if not done:
            _help(cfg, run)
        return
    if done:
        print(f"{position} {cfg.run_id}: {done}")
        return
    print(f"{position} {cfg.run_id}", flush=True)
    began = time.perf_counter()
    mirror = cfg.results_dir / cfg.study  # wandb makes its own folder wandb/ there
    with folder, Tracker(cfg.track, mirror, cfg.run_id, cfg.study, cfg.to_dict()) as tracker:

        def log(row: dict[str, Any], alignment: list[AlignmentRow]) -> None:
            folder.append(CURVE, [row] if row else [])
            folder.append(ALIGNMENT, [asdict(measured) for measured in alignment])
            tracker.log(row, alignment)

        try:
            result = run(cfg, folder, log)
        except Exception as error:  # whatever it is, it is recorded and must not stop a sweep
            written = results.failed(cfg, error, traceback.format_exc())
            outcomes: list[dict[str, Any]] = []
            failures.append(cfg.run_id)
            print(f"{position} {cfg.run_id}: failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        else:
            written = results.completed(cfg, result)
            outcomes = [asdict(outcome) for outcome in result.outcomes]
        tracker.finish(written)
        folder.close(written, outcomes)
    if tracker.sync_path is not None:
        offline.append(tracker.sync_path)
    if written.status == COMPLETED:
        print(f"{position} {cfg.run_id}: {_summary(written)}, {time.perf_counter() - began:.1f} s", flush=True)


def _found(cfg: Run, folder: RunFolder) -> str | None:
    """In words, that the run need not be done; None if it must be."""
    if folder.done:
        return "done before"
    other = None if cfg.trains else folder.copy_of_another_study(cfg.results_dir)
    return f"scored before, in {other.parent}" if other else None


def _help(cfg: Run, run: Callable[[Run, RunFolder, Sink], Result]) -> None:
    """Does a run's share in a process that is not its first: what it finds is the same, and is not kept."""
    with tempfile.TemporaryDirectory() as scratch, RunFolder(Path(scratch), cfg.study, cfg.run_id) as folder:
        try:
            run(cfg, folder, lambda _row, _alignment: None)
        except Exception as error:  # as in the first process, which records it
            print(f"process {parallel.rank()}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


def _summary(written: record.Record) -> str:
    loss = written.training.get("held_out_loss")
    parts = [] if loss is None else [f"held-out loss {loss:.3f}"]
    for score in written.scores:
        error = "" if score["stderr"] is None else f" ± {score['stderr']:.3f}"
        parts.append(f"{score['task']} {score['metric']} {score['value']:.3f}{error}")
    return ", ".join(parts)
