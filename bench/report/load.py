"""The records of a study, as cells: the runs that differ in nothing but the seed."""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.record import COMPLETED, RECORD, CorruptRecordError, Record, read_record


@dataclass(frozen=True)
class Cell:
    """Runs of one configuration under different seeds, in the seeds' order.

    Attributes:
        method: the name the command line knows.
        label: the method as its paper prints it.
        axes: the settings, beside task and model, in which the study's cells differ; None where a method ignores one.
    """

    method: str
    label: str
    axes: dict[str, Any]
    runs: list[Record]
    folders: list[Path]

    @property
    def place(self) -> tuple[str, str]:
        """The names of task and model."""
        return _place(self.runs[0])

    @property
    def trained(self) -> bool:
        """Whether the method trains anything."""
        return bool(self.runs[0].training)

    @property
    def title(self) -> str:
        """Label and axes, for a legend."""
        shown = [f"{name.rpartition('.')[2]} {value}" for name, value in self.axes.items() if value is not None]
        return ", ".join([self.label, *shown])


@dataclass(frozen=True)
class Study:
    """Everything a report is made from; `failed` and `unreadable` are named in it, not counted."""

    name: str
    folder: Path
    cells: list[Cell]
    failed: list[Record] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def parts(self) -> dict[tuple[str, str], Study]:
        """The study by names of task and model, in their order: what one table or figure can hold."""
        places = sorted({cell.place for cell in self.cells})
        return {place: replace(self, cells=[c for c in self.cells if c.place == place]) for place in places}


class ReportError(ValueError):
    """A study that no report can be made of; one line."""


# The order of tables and legends: references, random starts, those made from W, from inputs, from the gradient.
METHOD_ORDER = tuple(
    "none full_ft hu reversed orthogonal asymmetry_b asymmetry_a pissa milora olora mica corda eva "
    "lora_ga lora_ga_peft lora_one lora_xs lora_sb".split()
)


def load_study(results_dir: Path, name: str, mix: bool = False) -> Study:
    """Reads the records of results_dir/name.

    Args:
        mix: put records of different software or hardware into one report.

    Raises:
        ReportError: no such folder, no completed run, or several stacks without `mix`.
    """
    folder = results_dir / name
    if not folder.is_dir():
        known = sorted({str(p.parent.parent.relative_to(results_dir)) for p in results_dir.rglob(RECORD)})
        raise ReportError(f"no study {name!r} in {results_dir}; there are: {', '.join(known) or 'none'}")
    found: list[tuple[Path, Record]] = []
    unreadable = []
    for path in sorted(folder.glob(f"*/{RECORD}")):
        try:
            found.append((path.parent, read_record(path.parent)))
        except CorruptRecordError as error:
            unreadable.append(path.parent.name)
            print(f"warning: left out, not a readable record: {error}", file=sys.stderr)
    completed = [(path, record) for path, record in found if record.status == COMPLETED]
    if not completed:
        raise ReportError(f"no completed run in {folder}")
    if not mix:
        _refuse_mixture(folder, [record for _, record in completed])
    failed = [record for _, record in found if record.status != COMPLETED]
    return Study(name, folder, _cells(completed), failed, unreadable)


def _refuse_mixture(folder: Path, records: list[Record]) -> None:
    stacks: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        stacks[record.environment["fingerprint"]].append(record)
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


def _cells(found: list[tuple[Path, Record]]) -> list[Cell]:
    groups: dict[str, list[tuple[Path, Record]]] = defaultdict(list)
    for path, record in found:
        identity = {key: value for key, value in record.identity.items() if key != "seed"}
        groups[json.dumps(identity, sort_keys=True)].append((path, record))
    flat = {
        key: _flatten(json.loads(key))
        | {_PLACE: _place(members[0][1]), _METHOD: members[0][1].config["method"]["name"]}
        for key, members in groups.items()
    }
    axes = _axes(flat)
    cells = []
    for key, members in groups.items():
        members.sort(key=lambda member: member[1].config["seed"])
        first = members[0][1]
        values = {axis: flat[key].get(axis) for axis in axes}
        paths, runs = zip(*members, strict=True)
        cells.append(Cell(first.config["method"]["name"], first.label, values, list(runs), list(paths)))
    return sorted(cells, key=_rank)


def _place(record: Record) -> tuple[str, str]:
    return record.config["task"]["name"], record.config["model"]["name"]


def _rank(cell: Cell) -> tuple:
    known = METHOD_ORDER.index(cell.method) if cell.method in METHOD_ORDER else len(METHOD_ORDER)
    return known, cell.method, [(str(type(value)), value is not None and value) for value in cell.axes.values()]


_PLACE, _METHOD = "place", "method_name"  # beside the settings of an identity, none of which is called so


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted names, each one printable value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            flat[prefix + key] = ",".join(map(str, value))
        elif isinstance(value, str) and re.fullmatch("[0-9a-f]{40,}", value):
            flat[prefix + key] = value[:8]  # a hash, of which nobody reads more
        else:
            flat[prefix + key] = value
    return flat


def _axes(flat: dict[str, dict[str, Any]]) -> list[str]:
    """The settings that differ between cells to which they apply, without those that another one implies.

    Task and model head the tables, and what they imply (their data, their files) is no axis.
    """
    keys = {key for values in flat.values() for key in values} - {_PLACE, _METHOD}
    axes = [_PLACE]
    for key in sorted(keys, key=lambda key: (not key.endswith(".name"), key)):
        by_method: dict[str, set] = defaultdict(set)
        for settings in flat.values():
            if key in settings:
                by_method[settings[_METHOD]].add(settings[key])
        # A method's own fields and its learning rate set cells apart only within the method.
        own = key.startswith("method.") or key == "train.learning_rate"
        differs = any(len(values) > 1 for values in by_method.values())
        if not own:
            differs = len(set().union(*by_method.values())) > 1
        if differs and not any(_implies(flat, axis, key) for axis in axes):
            axes.append(key)
    return axes[1:]


def _implies(flat: dict[str, dict[str, Any]], axis: str, key: str) -> bool:
    """Whether the value of `axis` fixes the value of `key` in every cell that has it."""
    seen: dict[Any, set] = defaultdict(set)
    for settings in flat.values():
        if key in settings:
            seen[settings.get(axis)].add(settings[key])
    return all(len(values) == 1 for values in seen.values())
