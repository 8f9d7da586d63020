"""The numbers that papers print, from experiments/PAPER/published.csv.

A row of the file is one number of one table of the paper, with its source. A number without a source is left blank and
keeps its cell in the table. Rows and tasks are in the paper's order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FiniteFloat,
    PositiveInt,
    ValidationError,
    field_validator,
)

from bench.process.validation import one_line
from bench.report.palette import order
from bench.report.read.load import ReportError
from bench.runs.record import Record
from bench.study.folders import CONF, experiments_folder

PUBLISHED = "published.csv"
EMBEDDED = "_tiny"  # ends the names of studies with an embedded model (experiments/README.md)
AVERAGE = "average"  # the task of a mean over the table's other tasks


@dataclass(frozen=True)
class RowKey:
    """A row of a paper's table.

    Attributes:
        method: as the command line names it; "" for one that the suite lacks.
        settings: further overrides, such as method.scaling=alpha_over_sqrt_r for rsLoRA.
        label: the method as the paper prints it.
        rank: None if the method has none or the paper states none.
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
        """Whether a run has the row's method, settings and rank; a rank of None fits every rank."""
        config = record.config
        settings = config.model_dump()
        return (
            self.method == record.method
            and (self.rank is None or self.rank == config.rank.r)
            and all(_has(settings, *setting.split("=", 1)) for setting in self.settings)
        )


def _filled(text: str) -> str:
    if not text:
        raise ValueError("every row needs one; a number without a source is left blank, not its row's other fields")
    return text


Text = Annotated[str, AfterValidator(_filled)]
_BLANK = BeforeValidator(lambda text: text or None)


class Number(BaseModel):
    """One row of published.csv.

    Attributes:
        study: the study that repeats it, such as lora_sb/arithmetic.
        table: the paper's table, and what of its setting makes it a table of its own.
        model: as the command line names it; "" for one that the suite lacks.
        method: as the command line names it, followed by settings such as method.scaling=alpha_over_sqrt_r; "" for
            one that the suite lacks.
        label: the method as the paper prints it.
        rank: None if the method has none or the paper states none.
        trainable: number of parameters, as the paper prints it.
        task: the dataset, or "average".
        metric: without lm-eval's filter; "mean" of an average.
        value: in the paper's unit, mostly per cent; None if no source is known.
        std: the standard deviation that the paper prints beside it.
        source: where the number was read.
    """

    model_config = ConfigDict(frozen=True, str_strip_whitespace=True, extra="forbid")

    study: Text
    table: Text
    model: str
    method: str
    label: Text
    rank: Annotated[PositiveInt | None, _BLANK]
    trainable: str
    task: Text
    metric: Text
    value: Annotated[FiniteFloat | None, _BLANK]
    std: Annotated[FiniteFloat | None, _BLANK]
    source: Text

    @field_validator("method")
    @classmethod
    def _known(cls, text: str) -> str:
        method, *settings = text.split() or [""]
        if method and method not in known_methods():
            raise ValueError(f"unknown method; known: {', '.join(known_methods())}; leave it empty for another")
        if wrong := [setting for setting in settings if "=" not in setting]:
            raise ValueError(f"{wrong[0]!r} behind the method is no key=value")
        return text

    @cached_property
    def row(self) -> RowKey:
        """The row of the paper's table that it is in."""
        method, *settings = self.method.split() or [""]
        return RowKey(method, tuple(settings), self.label, self.rank)

    @property
    def text(self) -> str:
        """The value as the paper prints it; "" if it is blank."""
        if self.value is None:
            return ""
        return f"{self.value:g}" if self.std is None else f"{self.value:g} ± {self.std:g}"


COLUMNS = tuple(Number.model_fields)


def repeated_by(study: str) -> str | None:
    """The paper's study that one of the embedded tier repeats with another model and other tasks; None for no such."""
    return study.removesuffix(EMBEDDED) if study.endswith(EMBEDDED) else None


def published(study: str) -> tuple[Number, ...]:
    """The published numbers of a study, in the file's order; empty if nothing is published.

    Raises:
        ReportError: as `read_published`.
    """
    experiments = experiments_folder()
    path = experiments / study.partition("/")[0] / PUBLISHED if experiments is not None and "/" in study else None
    if path is None or not path.is_file():
        return ()
    return tuple(number for number in read_published(path) if number.study == study)


def read_published(path: Path) -> tuple[Number, ...]:
    """All numbers of a file.

    Raises:
        ReportError: names file and line of a field that is missing, not known or wrong, or of a number given twice.
    """
    try:  # without a header, so that a row of more fields is refused
        header, *rows = (
            pd.read_csv(path, header=None, dtype=str, keep_default_na=False, skip_blank_lines=False).to_numpy().tolist()
        )
    except pd.errors.ParserError as error:
        raise ReportError(f"{path}: {str(error).strip()}; a field with a comma goes between quotes") from None
    numbers: dict[tuple, tuple[int, Number]] = {}
    for line, row in enumerate(rows, 2):
        try:
            number = Number.model_validate(dict(zip(header, row, strict=True)))
        except ValidationError as error:
            raise ReportError(f"{path}:{line}: {one_line(error)}") from None
        if number.study.partition("/")[0] != path.parent.name:
            paper = path.parent.name
            raise ReportError(f"{path}:{line}: study {number.study!r} in the file of {paper}; write {paper}/NAME")
        key = (number.study, number.table, number.model, number.row, number.task)
        if key in numbers:
            where = f"{path}:{line}: {number.row.title}, {number.task}"
            raise ReportError(f"{where} is also in line {numbers[key][0]}; keep one")
        numbers[key] = line, number
    return tuple(number for _, number in numbers.values())


def row_of(record: Record, rows: tuple[RowKey, ...]) -> RowKey | None:
    """The row that covers a run; of several the one with most settings."""
    covering = [row for row in rows if row.method and row.covers(record)]
    return max(covering, key=lambda row: (len(row.settings), row.rank is not None), default=None)


def known_methods() -> tuple[str, ...]:
    """The methods of conf/method, in the order of tables."""
    return tuple(sorted((path.stem for path in (CONF / "method").glob("*.yaml")), key=order))


def _has(config: dict, key: str, value: str) -> bool:
    """Whether a configuration has this value at a dotted key; numbers are compared as numbers."""
    found: object = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    try:
        return found is not None and math.isclose(float(str(found)), float(value))
    except ValueError:
        return str(found) == value
