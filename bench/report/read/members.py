"""Reads the records of a study, and refuses to report on those that are not comparable."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bench.runs.record import CHECKSUMMED, CorruptRecordError, Record, read_record
from bench.study.plan_file import run_folders

Member = tuple[Path, Record]


class ReportError(ValueError):
    """A study cannot be reported; the message is one line."""


def read_members(folder: Path) -> tuple[list[Member], list[str]]:
    """The folders and records of a study in the folders' order, and the names of those that cannot be read."""
    found: list[Member] = []
    unreadable = []
    for path in run_folders(folder):
        try:
            found.append((path, read_record(path)))
        except CorruptRecordError as error:
            unreadable.append(path.name)
            print(f"warning: left out, not a readable record: {error}", file=sys.stderr)
    return found, unreadable


def refuse_mixture(folder: Path, records: Sequence[Record]) -> None:
    """Raises ReportError where records are of several schema versions, stacks or precisions."""
    schemas: dict[int, int] = defaultdict(int)
    stacks: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        schemas[min(record.schema_version, CHECKSUMMED)] += 1  # 5 has other names for the same numbers
        stacks[record.environment.fingerprint].append(record)
    if len(schemas) > 1:
        described = "; ".join(f"{version}: {number:,} runs" for version, number in sorted(schemas.items()))
        raise ReportError(
            f"{folder} holds records of {len(schemas)} schema versions ({described}), which a table does not mix: run "
            "the study again with one version of the suite, or say --mix"
        )
    if len(stacks) > 1:
        described = "; ".join(
            f"{fingerprint}: {len(runs)} runs, torch {runs[0].environment.versions.get('torch')}, "
            f"transformers {runs[0].environment.versions.get('transformers')}, "
            f"{runs[0].environment.hardware.gpu or runs[0].environment.hardware.cpu}, "
            f"{runs[0].environment.hardware.num_threads} threads"
            for fingerprint, runs in sorted(stacks.items())
        )
        raise ReportError(
            f"{folder} holds runs of {len(stacks)} software or hardware stacks ({described}); "
            "numbers of different stacks are not comparable: run the study again on one, or say --mix"
        )
    if len(precisions := {precision(record) for record in records}) > 1:
        trained = {training for training, _ in precisions if training is not None}
        scored = {scoring for _, scoring in precisions}
        for what, found in (("train", trained), ("score", scored)):
            if len(found) > 1:
                raise ReportError(
                    f"{folder} holds runs of several precisions ({what}.precision={' and '.join(sorted(found))}), "
                    "whose numbers are not comparable: give each a study of its own, or say --mix"
                )


def precision(record: Record) -> tuple[str | None, str]:
    """In which precision a run trained (None: it did not) and was scored."""
    trains = record.training is not None and record.training.num_steps > 0
    return (record.config.train.precision or "fp32") if trains else None, record.config.score.get("precision", "fp32")
