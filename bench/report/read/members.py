"""The records of a study as a report keeps them: what runs have in common is in memory once.

Ten thousand records as they are read take a gigabyte; nearly all of it says the same in all of them.
"""

from __future__ import annotations

import gc
import marshal
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.runs.record import CorruptRecordError, Record, read_record
from bench.study.plan_file import run_folders

Member = tuple[Path, Record]


class ReportError(ValueError):
    """A study that no report can be made of; one line."""


def read_members(folder: Path) -> tuple[list[Member], list[str]]:
    """The folders and records of a study in the folders' order, and the names of those that cannot be read.

    Of each layer a record keeps the name alone; it names no files and no attempts. Nothing may be changed in it: its
    parts are shared.
    """
    shared: dict[bytes, Any] = {}
    found: list[Member] = []
    unreadable = []
    with _no_collection():
        for path in run_folders(folder):
            try:
                found.append((path, _slim(read_record(path), shared)))
            except CorruptRecordError as error:
                unreadable.append(path.name)
                print(f"warning: left out, not a readable record: {error}", file=sys.stderr)
    return found, unreadable


def refuse_mixture(folder: Path, records: Sequence[Record]) -> None:
    """Raises ReportError where records are of several schema versions, or of several stacks."""
    schemas: dict[int, int] = defaultdict(int)
    stacks: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        schemas[min(record.schema_version, 4)] += 1  # 5 has other names for the same numbers
        stacks[record.environment["fingerprint"]].append(record)
    if len(schemas) > 1:
        described = "; ".join(f"{version}: {number:,} runs" for version, number in sorted(schemas.items()))
        raise ReportError(
            f"{folder} holds records of {len(schemas)} schema versions ({described}), which a table does not mix: run "
            "the study again with one version of the suite, or say --mix"
        )
    if len(stacks) > 1:
        described = "; ".join(
            f"{fingerprint}: {len(runs)} runs, torch {runs[0].environment['versions']['torch']}, "
            f"transformers {runs[0].environment['versions']['transformers']}, "
            f"{runs[0].environment['hardware']['gpu'] or runs[0].environment['hardware']['cpu']}, "
            f"{runs[0].environment['hardware']['num_threads']} threads"
            for fingerprint, runs in sorted(stacks.items())
        )
        raise ReportError(
            f"{folder} holds runs of {len(stacks)} software or hardware stacks ({described}); "
            "numbers of different stacks are not comparable: run the study again on one, or say --mix"
        )


def _slim(record: Record, shared: dict[bytes, Any]) -> Record:
    def once(value: Any) -> Any:
        return shared.setdefault(marshal.dumps(value, 2), value)  # 2: equal values give equal bytes

    layers = record.initialization.get("layers")
    if layers:
        record.initialization["layers"] = [{"name": layer["name"]} for layer in layers]
    for name in ("config", "identity", "initialization"):
        parts: dict[str, Any] = getattr(record, name)
        setattr(record, name, {sys.intern(key): once(value) for key, value in parts.items()})
    for name in ("label", "environment", "model", "data", "scoring"):
        setattr(record, name, once(getattr(record, name)))
    record.attempts, record.files = [], {}
    return record


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's collector looks for cycles among all that was read, again and again; JSON holds none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
