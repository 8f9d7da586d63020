"""A study's results in the layout of its paper's tables: ours, the published number and the difference.

Rows, tasks and their order are those of published.csv (bench.report.papers.papers). A difference is printed only if
both numbers are of the same metric and of the paper's model. There is one table for each of the stages "published"
(the paper's learning rate and scaling) and "tuned" (the best rate of the grid, one scaling rule for all methods).

A study of the embedded tier has other tasks and another model: its numbers stand in columns of their own, not compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from bench.report.judge.metrics import METRICS, SHARE, Scale, base_name
from bench.report.judge.scores import Column, Found, average, average_scale, collect, sample_estimate
from bench.report.judge.statistics import Estimate
from bench.report.papers.papers import AVERAGE, Number, published, repeated_by, row_of
from bench.report.read.load import Cell, Study
from bench.report.tables.render import DASH, interval_text, latex, markdown, prose
from bench.study.plan_file import PUBLISHED, TUNED

STAGES = (PUBLISHED, TUNED)
OURS = "ours: "  # in front of our tasks beside another model's
_OF_TEN = "gpt4_score"  # MT-Bench's judge, 0 to 10; the suite has no such metric
_MEANING = {
    PUBLISHED: "Ours of the stage published: the learning rate and scaling that the paper states.",
    TUNED: "Ours of the stage tuned: each method at its best learning rate of the validation split, all with one "
    "rule of scaling; the published numbers are at the paper's own.",
}


Cells = Sequence[Cell]


@dataclass(frozen=True)
class Ours:
    """What our runs have in one place of a table; `metric` is set where it is another than the published one."""

    estimate: Estimate
    scale: Scale
    metric: str | None = None


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper beside one stage of a study.

    Attributes:
        heading: table, model and stage; no stage where only published numbers are shown.
        places: a row a method and task, as in paper.csv, with the row's title and the place's text.
        notes: what a reader has to know of it, a line each.
    """

    heading: str
    places: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def texts(self) -> pd.DataFrame:
        """The table as printed: a row a method, a column a task; columns that say nothing are left out."""
        columns = self.places[["task", "metric"]].drop_duplicates()
        first = self.places.iloc[:: len(columns)]
        texts = {
            "method": list(first["label"]),
            "rank": _ranks(first["rank"]),
            "rank, ours": _ranks(first.get("our_rank", [None] * len(first))),
            "setting, ours": [text or DASH for text in first.get("our_setting", [""] * len(first))],
            "trainable, paper": [text or DASH for text in first["trainable_published"]],
            "trainable, ours": [DASH if pd.isna(number) else f"{number:,}" for number in first["trainable"]],
        }
        texts = {name: column for name, column in texts.items() if name == "method" or set(column) != {DASH}}
        for index, (task, metric) in enumerate(columns.itertuples(index=False)):
            shown = metric.replace("_", " ") if metric != "mean" else ""
            unit = "points" if metric == "difference" else _scale(metric).unit
            name = " ".join(part for part in (task, shown, unit) if part)
            texts[name] = list(self.places["text"].iloc[index :: len(columns)])
        if first["failed"].any():
            texts["failed runs"] = [str(number) for number in first["failed"]]
        return pd.DataFrame(texts)


def paper_table(study: Study) -> tuple[PaperTable, ...]:
    """Every table that is published for a study, at each stage; a table without any method of the suite once.

    Raises:
        ReportError: published.csv has a fault.
    """
    own_numbers = published(study.name)
    other = None if own_numbers else repeated_by(study.name)
    numbers = published(other) if other else own_numbers
    places = dict.fromkeys((number.table, number.model) for number in numbers)
    stages = [stage for stage in STAGES if stage in study.stages] or [study.stage]
    at = {stage: study if stage == study.stage else study.at(stage) for stage in stages}
    found = []
    for place in places:
        own = tuple(number for number in numbers if (number.table, number.model) == place)
        ours = any(number.row.method for number in own) and own[0].model
        make = _beside if other else _table
        if other and all(number.value is None for number in own):
            continue  # nothing that ours could stand beside
        found += [make(own, at[stage]) for stage in stages] if ours else [_table(own, None)]
    return tuple(found)


def shown_tables(study: Study) -> list[tuple[str, pd.DataFrame, list[str]]]:
    """The tables of `paper_table` for the page: title, cells as text, and the notes below."""
    return [(table.heading, table.texts, list(table.notes)) for table in paper_table(study)]


def write_paper_tables(study: Study, folder: Path) -> str:
    """Writes paper.md, paper.tex and paper.csv (one number a row), if any; returns the Markdown or ""."""
    tables = paper_table(study)
    if not tables:
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    blocks = [
        part
        for table in tables
        for part in (prose(f"### {table.heading}"), markdown(table.texts), *map(prose, table.notes))
    ]
    text = "\n\n".join(blocks) + "\n"
    (folder / "paper.md").write_text(text, encoding="utf-8")
    frame = pd.concat([table.places for table in tables]).drop(columns=["title", "text"])
    frame.to_csv(folder / "paper.csv", index=False, lineterminator="\n")
    sources = (
        latex(table.texts, f"{study.name}: {table.heading}.", f"tab:{study.name}:{table.heading}") for table in tables
    )
    (folder / "paper.tex").write_text("\n".join(sources), encoding="utf-8")
    return text


def _ranks(ranks: Iterable[Any]) -> list[str]:
    return [DASH if pd.isna(rank) else str(rank) for rank in ranks]


def _beside(numbers: tuple[Number, ...], study: Study) -> PaperTable:
    """Of the published numbers of one table and model, and in columns behind them what a study of another model has.

    A row holds a row of the paper and a cell of ours of one method and its settings; ranks are not matched.
    """
    table, model = numbers[0].table, numbers[0].model
    tasks = {number.task: number.metric for number in sorted(numbers, key=lambda number: number.task == AVERAGE)}
    keys = tuple(dict.fromkeys(replace(number.row, rank=None, label="") for number in numbers))
    rows: list[dict[str, Any]] = []
    for key in keys:
        theirs = list(dict.fromkeys(n.row for n in numbers if replace(n.row, rank=None, label="") == key))
        mine = [cell for cell in study.cells if row_of(cell.runs[0], keys) == key]
        for row, cell in zip_longest(theirs, mine):
            own = {number.task: number for number in numbers if number.row == row}
            about = {
                "table": table,
                "model": model,
                "stage": study.stage,
                "method": key.method,
                "settings": " ".join(key.settings),
                "label": (row or theirs[0]).label,
                "rank": row and row.rank,
                "our_rank": _rank_of(cell),
                "our_setting": _setting_of(cell),
                "title": (row or theirs[0]).title,
            }
            behind = {
                "trainable_published": next((number.trainable for number in own.values() if number.trainable), ""),
                "trainable": round(median(r.initialization.num_trainable for r in cell.runs)) if cell else None,
                "failed": 0,
            }
            for task, metric in tasks.items():
                place = _place(own.get(task), None, metric, alone=True)
                source = own[task].source if task in own else None
                rows.append(about | {"task": task, "metric": metric} | place | behind | {"source": source})
            for task, metric, ours in _measured(study, cell):
                text = DASH if ours is None else f"{interval_text(ours.estimate, ours.scale)} ({ours.estimate.n})"
                place = _place(None, ours, metric, alone=True) | {"text": text}
                rows.append(about | {"task": f"{OURS}{task}", "metric": metric} | place | behind | {"source": None})
    places = pd.DataFrame(rows).astype(dict.fromkeys(("rank", "our_rank", "n", "trainable"), "Int64"))
    own_model = ", ".join(sorted({cell.task_and_model[1] for cell in study.cells}))
    notes = (
        f"Other model: not comparable, shown beside. The published numbers are of {model} on the paper's tasks, ours, "
        f"mean [95 % interval] (runs), of {own_model} on generated tasks in their form: nothing is subtracted, and "
        f"rows of one method stand beside each other whatever their rank. {_MEANING.get(study.stage, '')}".rstrip(),
        *_sources(places),
    )
    return PaperTable(f"{table}, {model}, beside {own_model}, stage {study.stage}", places, notes)


def _rank_of(cell: Cell | None) -> int | None:
    return cell.runs[0].config.rank.r if cell and "rank" in cell.runs[0].identity else None


def _setting_of(cell: Cell | None) -> str:
    """In what else than its method and rank the cell differs from others of the study."""
    axes = cell.axes.items() if cell else ()
    shown = [(axis, value) for axis, value in axes if value is not None and not axis.startswith("rank.")]
    return ", ".join(f"{axis.rpartition('.')[2]} {value}" for axis, value in shown)


def _measured(study: Study, cell: Cell | None) -> list[tuple[str, str, Ours | None]]:
    """Of each column of a study its dataset, metric and what a cell has: the first metrics, then their average."""
    scores = collect(study.cells)
    found = scores.found[study.cells.index(cell)] if cell else {}
    shown: list[tuple[str, str, Ours | None]] = []
    for column in scores.first_metrics:
        ours = Ours(found[column].estimate, column.scale) if column in found else None
        shown.append((str(column.dataset), base_name(column.metric), ours))
    if scores.averaged:
        sample, scale = average(found, scores.averaged), average_scale(scores.averaged)
        shown.append((AVERAGE, "mean", Ours(sample_estimate(sample, scale), scale) if sample else None))
    return shown


def _table(numbers: tuple[Number, ...], study: Study | None) -> PaperTable:
    """Of the published numbers of one table and model, beside the cells of a study's stage."""
    table, model, stage = numbers[0].table, numbers[0].model, study and study.stage
    metrics = {number.task: number.metric for number in numbers}
    tasks = sorted(metrics, key=lambda task: task == AVERAGE)  # stable: the paper's order, the average last
    keys = tuple(dict.fromkeys(number.row for number in numbers))
    on_model = [cell for cell in study.cells if cell.task_and_model[1] == model] if study else []
    failed = [row_of(run, keys) for run in study.failed if run.config.model.name == model] if study else []
    rows: list[dict[str, Any]] = []
    ambiguous = []
    for key in keys:
        mine = {number.task: number for number in numbers if number.row == key}
        cells = [cell for cell in on_model if row_of(cell.runs[0], keys) == key]
        having = {task: [c for c in cells if any(s.task == task for s in c.runs[0].scores)] for task in tasks}
        found = {task: _found(having[task], task, metrics[task]) for task in tasks if task != AVERAGE}
        ambiguous += [f"{key.title}, {task}" for task in tasks if len(having[task]) > 1]
        counts = [run.initialization.num_trainable for cell in cells for run in cell.runs]
        about = {
            "table": table,
            "model": model,
            "stage": stage,
            "method": key.method,
            "settings": " ".join(key.settings),
            "label": key.label,
            "rank": key.rank,
        }
        behind = {
            "trainable_published": next((number.trainable for number in mine.values() if number.trainable), ""),
            "trainable": round(median(counts)) if counts else None,
            "failed": failed.count(key),
        }
        for task in tasks:
            ours = _average(found, metrics) if task == AVERAGE else _ours(found[task], metrics[task])
            place = _place(mine.get(task), ours, metrics[task], study is None)
            source = mine[task].source if task in mine else None
            named = {"title": key.title, "task": task, "metric": metrics[task]}
            rows.append(about | named | place | behind | {"source": source})
    places = pd.DataFrame(rows).astype(dict.fromkeys(("rank", "n", "trainable"), "Int64"))
    heading = ", ".join(part for part in (table, model, stage and f"stage {stage}") if part)
    return PaperTable(heading, places, tuple(_notes(places, study, ambiguous)))


def _place(number: Number | None, ours: Ours | None, metric: str, alone: bool) -> dict[str, Any]:
    """The numbers of one place of a table, unrounded and in the paper's unit, and its text."""
    printed = (number.text if number else "") or DASH
    value, std = (number.value, number.std) if number else (None, None)
    if ours is None:
        known = dict.fromkeys(("ours", "low", "high", "interval_over", "n", "our_metric"))
        text = printed if alone or printed == DASH else f"{DASH} / {printed} / {DASH}"
        return known | {"published": value, "published_std": std, "difference": None, "text": text}
    found, factor = ours.estimate, ours.scale.factor
    low, high = (None if end is None else factor * end for end in (found.low, found.high))
    compared = value is not None and ours.metric is None and math.isfinite(found.mean)
    difference = factor * found.mean - value if compared else None  # type: ignore[operator]
    text = f"{interval_text(found, ours.scale)} ({found.n}) {ours.metric or ''}".rstrip()
    return {
        "ours": factor * found.mean,
        "low": low,
        "high": high,
        "interval_over": found.over,
        "n": found.n,
        "our_metric": ours.metric or metric,
        "published": value,
        "published_std": std,
        "difference": difference,
        "text": f"{text} / {printed} / {DASH if difference is None else f'{difference:+.2f}'}",
    }


def _found(having: Cells, task: str, metric: str) -> tuple[Column, Found] | None:
    """The column of the published metric, else the task's first; None unless one cell has the task."""
    if len(having) != 1:
        return None
    scores = collect(having)
    columns = [column for column in scores.columns if column.dataset == task]
    column = next((column for column in columns if _same(column, metric)), columns[0])
    return column, scores.found[0][column]


def _ours(found: tuple[Column, Found] | None, metric: str) -> Ours | None:
    if found is None:
        return None
    column, reached = found
    return Ours(reached.estimate, column.scale, None if _same(column, metric) else base_name(column.metric))


def _average(found: dict[str, tuple[Column, Found] | None], metrics: dict[str, str]) -> Ours | None:
    """The mean over the table's other tasks, run by run."""
    known = {one[0]: one[1] for one in found.values() if one}
    columns = list(known)
    whole = columns and len(columns) == len(found) and all(column.scale.unit == SHARE.unit for column in columns)
    if not whole or (sample := average(known, columns)) is None:
        return None
    same = all(_same(column, metrics[str(column.dataset)]) for column in columns)
    return Ours(sample_estimate(sample, average_scale(columns)), SHARE, None if same else "other metrics")


def _same(column: Column, metric: str) -> bool:
    return metric in (column.metric, base_name(column.metric))


def _scale(metric: str) -> Scale:
    """The unit in which papers print a metric: correlations and shares in per cent."""
    return Scale(factor=1.0, unit="") if metric == _OF_TEN else METRICS.get(metric, SHARE)


def _notes(places: pd.DataFrame, study: Study | None, ambiguous: list[str]) -> list[str]:
    notes = []
    if study is not None:
        notes.append(
            "Each place: ours [95 % interval] (runs) / the published number / ours - published in points; "
            f"{DASH}: missing. With one run the interval is over its items. {_MEANING.get(study.stage, '')}".rstrip()
        )
    notes += _sources(places)
    other = places[places["our_metric"].notna() & (places["our_metric"] != places["metric"])]
    texts = other["task"] + " " + other["metric"] + " in the paper, " + other["our_metric"] + " here"
    if others := [text for task in places["task"].unique() for text in texts[other["task"] == task].unique()]:
        notes.append(f"Another metric, so no difference: {'; '.join(others)}.")
    model = places["model"].iloc[0]
    elsewhere = sorted({cell.task_and_model[1] for cell in study.cells} - {model}) if study else []
    if elsewhere:
        notes.append(f"The table is of {model}; our runs on {', '.join(elsewhere)} are not in it.")
    if ambiguous:
        notes.append(f"Left out, several configurations of ours fit: {'; '.join(ambiguous)}.")
    return notes


def _sources(places: pd.DataFrame) -> list[str]:
    """Where the published numbers of a table were read, and which rows have none."""
    notes = []
    valued = places[places["published"].notna()]
    for source, own in valued.groupby("source", sort=False):
        every = own["title"].nunique() == valued["title"].nunique()
        kind, colon, where = str(source).rpartition("ary: ")
        named = f"{kind.capitalize()}ary source: {where}" if colon and " " not in kind else f"Source: {source}"
        notes.append(f"{named} ({'every row' if every else '; '.join(own['title'].unique())}).")
    if len(blank := places.loc[places["published"].isna() & places["source"].notna(), "title"].unique()):
        notes.append(f"Left blank, no source found for all or some tasks: {'; '.join(blank)}.")
    return notes
