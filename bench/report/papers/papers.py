"""The numbers that papers print, from experiments/PAPER/published.csv.

A row is one number of one table, with where it was found. A number without a source is left blank; such a row keeps
its place in the table. Rows and tasks stand in the paper's order.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from bench.report.read.load import METHOD_ORDER, ReportError
from bench.runs.record import Record
from bench.study.folders import ROOT, experiments_folder

PUBLISHED = "published.csv"
AVERAGE = "average"  # the task of a mean over the table's other tasks
REQUIRED = ("study", "table", "label", "task", "metric", "source")


@dataclass(frozen=True)
class RowKey:
    """What makes a row of a paper's table.

    Attributes:
        method: as the command line names it; "" for one that the suite lacks.
        settings: what the row sets beside the method, such as method.scaling=alpha_over_sqrt_r for rsLoRA.
        label: as the paper prints it.
        rank: None where the method has none or the paper states none.
    """

    method: str
    settings: tuple[str, ...]
    label: str
    rank: int | None

    @property
    def title(self) -> str:
        """Label and rank."""
        return self.label if self.rank is None else f"{self.label} r {self.rank}"

    def covers(self, record: Record) -> bool:
        """Whether a run is one of this row; for a rank of None, any rank is."""
        config = record.config
        settings = config.model_dump()
        return (
            self.method == config.method.name
            and (self.rank is None or self.rank == config.rank.r)
            and all(_has(settings, *setting.split("=", 1)) for setting in self.settings)
        )


@dataclass(frozen=True)
class Number:
    """One row of published.csv.

    Attributes:
        study: the study that repeats it, such as lora_sb/arithmetic.
        table: of the paper, with what of its setting sets it apart.
        model: as the command line names it; "" for none.
        trainable: parameters, as the paper prints them.
        task: the dataset, or "average".
        metric: without lm-eval's filter; "mean" of an average.
        value: in the paper's unit, mostly per cent; None where no source is known.
        std: the deviation that the paper prints beside it.
        source: where the number was read.
    """

    study: str
    table: str
    model: str
    row: RowKey
    trainable: str
    task: str
    metric: str
    value: float | None
    std: float | None
    source: str

    @property
    def text(self) -> str:
        """The value as the paper prints it; "" where it is blank."""
        if self.value is None:
            return ""
        return f"{self.value:g}" if self.std is None else f"{self.value:g} ± {self.std:g}"


COLUMNS = tuple("study table model method label rank trainable task metric value std source".split())


def published_file(study: str) -> Path | None:
    """The file with the numbers of a study's paper; None where there is none."""
    experiments = experiments_folder()
    paper, slash, _ = study.partition("/")
    path = experiments / paper / PUBLISHED if experiments is not None and slash else None
    return path if path is not None and path.is_file() else None


def published(study: str) -> tuple[Number, ...]:
    """The numbers that belong to a study, in the file's order; none where nothing is published.

    Raises:
        ReportError: as `read_published`.
    """
    path = published_file(study)
    return tuple(number for number in read_published(path) if number.study == study) if path else ()


def read_published(path: Path) -> tuple[Number, ...]:
    """All numbers of a file.

    Raises:
        ReportError: a column or method that is not known, a value that is no number, a row without source, two rows
            for one number.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        _check_columns(path, reader.fieldnames or [])
        seen: dict[tuple, int] = {}
        numbers = []
        try:
            for row in reader:
                where = f"{path}:{reader.line_num}"
                number = _number(where, row)
                key = (number.study, number.table, number.model, number.row, number.task)
                if key in seen:
                    raise ReportError(
                        f"{where}: {number.row.title}, {number.task} is also in line {seen[key]}; keep one"
                    )
                seen[key] = reader.line_num
                numbers.append(number)
        except csv.Error as error:
            raise ReportError(f"{path}:{reader.line_num}: {error}") from None
    return tuple(numbers)


def row_of(record: Record, rows: tuple[RowKey, ...]) -> RowKey | None:
    """The row that a run belongs to: of several that cover it, the one that sets most."""
    covering = [row for row in rows if row.method and row.covers(record)]
    return max(covering, key=lambda row: (len(row.settings), row.rank is not None), default=None)


def known_methods() -> tuple[str, ...]:
    """Names that a row may give."""
    configured = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
    return tuple(dict.fromkeys((*METHOD_ORDER, *configured)))


def _check_columns(path: Path, names: object) -> None:
    found = list(names)  # type: ignore[call-overload]
    unknown = [str(name) for name in found if name not in COLUMNS]
    missing = [name for name in COLUMNS if name not in found]
    if unknown or missing:
        problems = [f"unknown column {', '.join(unknown)}"] * bool(unknown)
        problems += [f"no column {', '.join(missing)}"] * bool(missing)
        raise ReportError(f"{path}: {'; '.join(problems)}; the columns are {','.join(COLUMNS)}")


def _number(where: str, row: dict[str, str]) -> Number:
    if None in row or None in row.values():
        raise ReportError(f"{where}: not {len(COLUMNS)} fields; one with a comma goes between quotes")
    row = {name: value.strip() for name, value in row.items()}
    for name in REQUIRED:
        if not row[name]:
            raise ReportError(f"{where}: no {name}; every row says where its number was read")
    if row["study"].partition("/")[0] != (paper := Path(where.rpartition(":")[0]).parent.name):
        raise ReportError(f"{where}: study {row['study']!r} in the file of {paper}; write {paper}/NAME")
    method, *settings = row["method"].split() or [""]
    if method and method not in known_methods():
        known = ", ".join(known_methods())
        raise ReportError(f"{where}: unknown method {method!r}; known: {known}; leave it empty for one the suite lacks")
    if wrong := [setting for setting in settings if "=" not in setting]:
        raise ReportError(f"{where}: {wrong[0]!r} behind the method is no key=value")
    rank = _float(where, row, "rank")
    if rank is not None and (rank < 1 or not rank.is_integer()):
        raise ReportError(f"{where}: rank {row['rank']} is no rank; a whole number from 1, or empty")
    key = RowKey(method, tuple(settings), row["label"], None if rank is None else int(rank))
    return Number(
        row["study"], row["table"], row["model"], key, row["trainable"], row["task"], row["metric"],
        _float(where, row, "value"), _float(where, row, "std"), row["source"],
    )  # fmt: skip


def _float(where: str, row: dict[str, str], name: str) -> float | None:
    if not row[name]:
        return None
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ReportError(f"{where}: {name} {row[name]!r} is no number; leave it empty where none has a source")
    return value


def _has(config: dict, key: str, value: str) -> bool:
    """Whether a run's configuration has a dotted key at a value; numbers are compared as numbers."""
    found: object = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    try:
        return found is not None and math.isclose(float(str(found)), float(value))
    except ValueError:
        return str(found) == value
