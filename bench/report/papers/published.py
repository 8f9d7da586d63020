"""A study's results in the layout of its paper's tables: ours, the published number and the difference.

Rows, tasks and their order are those of published.csv (bench.report.papers.papers). A difference is printed only if
both numbers are of the same metric and of the paper's model. There is one table for each of the stages "published"
(the paper's learning rate and scaling) and "tuned" (the best rate of the grid, one scaling rule for all methods).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from bench.report.judge.metrics import METRICS, SHARE, Scale, base_name
from bench.report.judge.scores import Column, Found, average, average_scale, collect, sample_estimate
from bench.report.judge.statistics import Estimate
from bench.report.papers.papers import AVERAGE, Number, RowKey, published, row_of
from bench.report.read.load import Cell, Study
from bench.report.tables.render import DASH, comment, interval_text, latex, markdown, prose
from bench.study.plan_file import PUBLISHED, TUNED

STAGES = (PUBLISHED, TUNED)
_OF_TEN = "gpt4_score"  # MT-Bench's judge, 0 to 10; the suite has no such metric
_MEANING = {
    PUBLISHED: "Ours of the stage published: the learning rate and scaling that the paper states.",
    TUNED: "Ours of the stage tuned: each method at its best learning rate of the validation split, all with one "
    "rule of scaling; the published numbers are at the paper's own.",
}


@dataclass(frozen=True)
class Entry:
    """One cell of a table.

    Attributes:
        ours: None without a run, or if runs of several configurations fit the row.
        metric: the metric of ours, if it is not the published number's.
        difference: ours - published, in points; None if one is missing or the metrics differ.
    """

    number: Number | None
    ours: Estimate | None
    scale: Scale
    metric: str | None = None
    difference: float | None = None


@dataclass(frozen=True)
class PaperRow:
    """A row; `trainable` is the paper's text, `num_trainable` our count, `failed` our number of failed runs."""

    key: RowKey
    trainable: str
    num_trainable: int | None
    failed: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper beside one stage of a study; `stage` is None for the published numbers alone.

    Attributes:
        columns: task and published metric of each.
        notes: what a reader has to know of it, a line each.
    """

    title: str
    model: str
    stage: str | None
    columns: tuple[tuple[str, str], ...]
    rows: tuple[PaperRow, ...]
    notes: tuple[str, ...]


def paper_table(study: Study) -> tuple[PaperTable, ...]:
    """Every table that is published for a study, at each stage; a table without any method of the suite once.

    Raises:
        ReportError: published.csv has a fault.
    """
    stages = [stage for stage in STAGES if stage in study.stages] or [study.stage]
    at = {stage: study if stage == study.stage else study.at(stage) for stage in stages}
    return tuple(
        _table(numbers, stage, at[stage] if stage else None)
        for numbers in _tables(published(study.name))
        for stage in (stages if any(number.row.method for number in numbers) and numbers[0].model else (None,))
    )


def published_table(study: str) -> str:
    """The published numbers of a study as Markdown, without ours; "" if nothing is published. Reads no records."""
    return _join(_table(numbers, None, None) for numbers in _tables(published(study)))


def shown_tables(study: Study) -> list[tuple[str, pd.DataFrame, list[str]]]:
    """The tables of `paper_table` for the page: title, cells as text, and the notes below."""
    return [(_heading(table), _texts(table), list(table.notes)) for table in paper_table(study)]


def write_paper_tables(study: Study, folder: Path) -> str:
    """Writes paper.md, paper.tex and paper.csv (one number a row), if any; returns the Markdown or ""."""
    tables = paper_table(study)
    if not tables:
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    text = _join(tables)
    (folder / "paper.md").write_text(text, encoding="utf-8")
    frame = pd.DataFrame([row for table in tables for row in _numbers(table)])
    frame.to_csv(folder / "paper.csv", index=False, lineterminator="\n")
    sources = (comment(_heading(table)) + latex(_texts(table)) for table in tables)
    (folder / "paper.tex").write_text("".join(sources), encoding="utf-8")
    return text


def _tables(numbers: Sequence[Number]) -> list[tuple[Number, ...]]:
    """The numbers of each table and model, in the file's order."""
    places = dict.fromkeys((number.table, number.model) for number in numbers)
    return [tuple(n for n in numbers if (n.table, n.model) == place) for place in places]


def _table(numbers: tuple[Number, ...], stage: str | None, study: Study | None) -> PaperTable:
    metrics = {number.task: number.metric for number in numbers}
    tasks = sorted(metrics, key=lambda task: task == AVERAGE)  # stable: the paper's order, the average last
    keys = tuple(dict.fromkeys(number.row for number in numbers))
    on_model = [cell for cell in study.cells if cell.task_and_model[1] == numbers[0].model] if study else []
    of_row = {key: [cell for cell in on_model if row_of(cell.runs[0], keys) == key] for key in keys}
    failed = [run for run in study.failed if run.config.model.name == numbers[0].model] if study else []
    rows, ambiguous = [], []
    for key in keys:
        mine = {number.task: number for number in numbers if number.row == key}
        found = {task: _found(of_row[key], task, metrics[task]) for task in tasks if task != AVERAGE}
        entries = [
            _average(mine.get(task), found, metrics)
            if task == AVERAGE
            else _entry(mine.get(task), found[task], metrics[task])
            for task in tasks
        ]
        ambiguous += [f"{key.title}, {task}" for task in tasks if len(_having(of_row[key], task)) > 1]
        printed = next((number.trainable for number in mine.values() if number.trainable), "")
        failures = sum(row_of(run, keys) == key for run in failed)
        rows.append(PaperRow(key, printed, _num_trainable(of_row[key]), failures, tuple(entries)))
    table = PaperTable(
        numbers[0].table, numbers[0].model, stage, tuple((task, metrics[task]) for task in tasks), tuple(rows), ()
    )
    return replace(table, notes=tuple(_notes(table, study, ambiguous)))


def _having(cells: Sequence[Cell], task: str) -> list[Cell]:
    return [cell for cell in cells if any(score.task == task for score in cell.runs[0].scores)]


def _found(cells: Sequence[Cell], task: str, metric: str) -> tuple[Column, Found] | None:
    """The column of the published metric; where there is none, the task's first."""
    having = _having(cells, task)
    if len(having) != 1:
        return None
    scores = collect(having)
    columns = [column for column in scores.columns if column.dataset == task]
    column = next((column for column in columns if _same(column, metric)), columns[0])
    return column, scores.found[0][column]


def _entry(number: Number | None, found: tuple[Column, Found] | None, metric: str) -> Entry:
    if found is None:
        return Entry(number, None, _scale(metric))
    column, reached = found
    if not _same(column, metric):
        return Entry(number, reached.estimate, column.scale, base_name(column.metric))
    return _compared(number, reached.estimate, column.scale)


def _average(number: Number | None, found: dict[str, tuple[Column, Found] | None], metrics: dict[str, str]) -> Entry:
    """The mean over the table's other tasks, run by run."""
    known = {one[0]: one[1] for one in found.values() if one}
    columns = list(known)
    whole = columns and len(columns) == len(found) and all(column.scale.unit == SHARE.unit for column in columns)
    if not whole or (sample := average(known, columns)) is None:
        return Entry(number, None, SHARE)
    ours = sample_estimate(sample, average_scale(columns))
    if not all(_same(column, metrics[str(column.dataset)]) for column in columns):
        return Entry(number, ours, SHARE, "other metrics")
    return _compared(number, ours, SHARE)


def _compared(number: Number | None, ours: Estimate, scale: Scale) -> Entry:
    known = number is not None and number.value is not None and math.isfinite(ours.mean)
    return Entry(number, ours, scale, None, scale.factor * ours.mean - number.value if known else None)  # type: ignore[union-attr, operator]


def _same(column: Column, metric: str) -> bool:
    return metric in (column.metric, base_name(column.metric))


def _num_trainable(cells: Sequence[Cell]) -> int | None:
    """Trainable parameters of one run; the median if they differ between tasks."""
    counts = [run.initialization.num_trainable for cell in cells for run in cell.runs]
    return round(median(counts)) if counts else None


def _scale(metric: str) -> Scale:
    """The unit in which papers print a metric: correlations and shares in per cent."""
    return Scale(factor=1.0, unit="") if metric == _OF_TEN else METRICS.get(metric, SHARE)


def _notes(table: PaperTable, study: Study | None, ambiguous: list[str]) -> list[str]:
    numbers = [entry.number for row in table.rows for entry in row.entries if entry.number]
    notes = []
    if table.stage is not None:
        notes.append(
            "Each place: ours [95 % interval] (runs) / the published number / ours - published in points; "
            f"{DASH}: missing. With one run the interval is over its items. {_MEANING.get(table.stage, '')}".rstrip()
        )
    valued = [number for number in numbers if number.value is not None]
    for source in dict.fromkeys(number.source for number in valued):
        rows = dict.fromkeys(number.row.title for number in valued if number.source == source)
        every = len(rows) == len({number.row for number in valued})
        kind, colon, where = source.rpartition("ary: ")
        named = f"{kind.capitalize()}ary source: {where}" if colon and " " not in kind else f"Source: {source}"
        notes.append(f"{named} ({'every row' if every else '; '.join(rows)}).")
    if blank := dict.fromkeys(number.row.title for number in numbers if number.value is None):
        notes.append(f"Left blank, no source found for all or some tasks: {'; '.join(blank)}.")
    others: dict[str, None] = {}
    for (task, metric), *entries in zip(table.columns, *(row.entries for row in table.rows), strict=True):
        others |= {f"{task} {metric} in the paper, {entry.metric} here": None for entry in entries if entry.metric}
    if others:
        notes.append(f"Another metric, so no difference: {'; '.join(others)}.")
    elsewhere = sorted({cell.task_and_model[1] for cell in study.cells} - {table.model}) if study else []
    if elsewhere:
        notes.append(f"The table is of {table.model}; our runs on {', '.join(elsewhere)} are not in it.")
    if ambiguous:
        notes.append(f"Left out, several configurations of ours fit: {'; '.join(ambiguous)}.")
    return notes


def _heading(table: PaperTable) -> str:
    return ", ".join(part for part in (table.title, table.model, table.stage and f"stage {table.stage}") if part)


def _join(tables: Any) -> str:
    blocks = []
    for table in tables:
        blocks.append("\n\n".join([prose(f"### {_heading(table)}"), markdown(_texts(table)), *map(prose, table.notes)]))
    return "\n\n".join(blocks) + "\n" if blocks else ""


def _texts(table: PaperTable) -> pd.DataFrame:
    """The table as printed; columns that say nothing are left out."""
    texts: dict[str, list[str]] = {"method": [row.key.label for row in table.rows]}
    texts["rank"] = [DASH if row.key.rank is None else str(row.key.rank) for row in table.rows]
    texts["trainable, paper"] = [row.trainable or DASH for row in table.rows]
    texts["trainable, ours"] = [DASH if row.num_trainable is None else f"{row.num_trainable:,}" for row in table.rows]
    for index, (task, metric) in enumerate(table.columns):
        shown = metric.replace("_", " ") if metric != "mean" else ""
        unit = "points" if metric == "difference" else _scale(metric).unit
        name = " ".join(part for part in (task, shown, unit) if part)
        texts[name] = [_text(row.entries[index], table.stage is None) for row in table.rows]
    if any(row.failed for row in table.rows):
        texts["failed runs"] = [str(row.failed) for row in table.rows]
    optional = ("rank", "trainable, paper", "trainable, ours")
    return pd.DataFrame({k: v for k, v in texts.items() if k not in optional or set(v) != {DASH}})


def _text(entry: Entry, alone: bool) -> str:
    printed = (entry.number.text if entry.number else "") or DASH
    if alone:
        return printed
    ours = DASH
    if entry.ours is not None:
        ours = f"{interval_text(entry.ours, entry.scale)} ({entry.ours.n}) {entry.metric or ''}".rstrip()
    difference = DASH if entry.difference is None else f"{entry.difference:+.2f}"
    return DASH if {ours, printed} == {DASH} else f"{ours} / {printed} / {difference}"


def _numbers(table: PaperTable) -> list[dict[str, Any]]:
    """A row a place, every number unrounded; ours in the paper's unit."""
    return [
        {
            "table": table.title,
            "model": table.model,
            "stage": table.stage,
            "method": row.key.method,
            "settings": " ".join(row.key.settings),
            "label": row.key.label,
            "rank": None if row.key.rank is None else str(row.key.rank),
            "task": task,
            "metric": metric,
            **_ours(entry, metric),
            "published": entry.number and entry.number.value,
            "published_std": entry.number and entry.number.std,
            "difference": entry.difference,
            "trainable_published": row.trainable,
            "trainable": None if row.num_trainable is None else str(row.num_trainable),
            "failed": row.failed,
            "source": entry.number and entry.number.source,
        }
        for row in table.rows
        for (task, metric), entry in zip(table.columns, row.entries, strict=True)
    ]


def _ours(entry: Entry, metric: str) -> dict[str, Any]:
    """In the paper's unit."""
    ours, factor = entry.ours, entry.scale.factor
    if ours is None:
        return dict.fromkeys(("ours", "low", "high", "interval_over", "n", "our_metric"))
    low, high = (None if end is None else factor * end for end in (ours.low, ours.high))
    known = {"ours": factor * ours.mean, "low": low, "high": high, "interval_over": ours.over}
    return known | {"n": str(ours.n), "our_metric": entry.metric or metric}
