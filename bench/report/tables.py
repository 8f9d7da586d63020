"""The tables of a study: a cell a row, a metric a column; as Markdown, CSV (numbers apart) and LaTeX."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd

from bench.record import Record
from bench.report.load import Cell, Study
from bench.report.metrics import SHARE, Scale
from bench.report.remarks import DAGGER, flagged, note, remarks
from bench.report.scores import Column, Scores, average, clear_best, collect, heading
from bench.report.statistics import Estimate

DASH = "–"
WIDE = 8  # a table of more metrics shows the first of each task


def seconds(run: Record, *phases: str) -> float:
    """Seconds of some phases of a run; 0 for one it did not have."""
    return sum(run.phases.get(phase, {}).get("seconds", 0.0) for phase in phases)


def init_seconds(run: Record) -> float:
    """Calibration and factorisation; what calibration cost where it was computed, also if this run read it."""
    calibration = run.initialization.get("calibration") or {}
    return calibration.get("total_seconds", 0.0) + seconds(run, "initialise")


def trainable_parameters(cell: Cell) -> int:
    """Of one run; the mean where a method gives layers different ranks under different seeds."""
    return round(mean(run.initialization["num_trainable"] for run in cell.runs))


def num_head(cell: Cell) -> int:
    """Parameters of the classification head, which are not part of the trainable ones."""
    return cell.runs[0].initialization["num_head"]


def numbers(study: Study) -> pd.DataFrame:
    """One row a cell and metric, every number unrounded; missing is NaN."""
    rows = [
        _cell_numbers(cell)
        | {
            "dataset": column.dataset,
            "metric": column.metric,
            "higher_is_better": column.higher_is_better,
            "mean": found.estimate.mean,
            "low": found.estimate.low,
            "high": found.estimate.high,
            "interval_over": found.estimate.over,
            "n": found.estimate.n,
            "num_examples": found.num_examples,
            "majority": found.majority,
            "above_majority": found.above_majority,
        }
        | _cell_costs(cell)
        for part in study.parts.values()
        for cell, columns in zip(part.cells, collect(part.cells).found, strict=True)
        for column, found in columns.items()
    ]
    return pd.DataFrame(rows).astype({"num_examples": "Int64"}) if rows else pd.DataFrame()


def summary(study: Study) -> pd.DataFrame:
    """The table to read: strings, one row a cell, metrics as columns; the best of a metric marked with **.

    Args:
        study: better one of `Study.parts`, whose cells share task and model, than a whole study of several.
    """
    scores = collect(study.cells)
    cells = study.cells
    table = pd.DataFrame({"method": [cell.label for cell in cells]})
    axes = {axis: [_shown_axes(cell)[axis] for cell in cells] for axis in _shown_axes(cells[0])}
    for axis, values in axes.items():
        if any(value is not None for value in values):
            table[axis] = [DASH if value is None else str(value) for value in values]
    table["learning rate"] = [f"{rate:g}" if (rate := _learning_rate(cell)) is not None else DASH for cell in cells]
    for column in shown_columns(scores):
        table[heading(column, scores.columns)] = _metric(cells, scores, column)
    if scores.averaged:
        averages = [average(cell, scores.averaged) for cell in cells]
        table[f"average {SHARE.unit}"] = _marked(averages, SHARE, higher_is_better=True)
    table["n"] = [str(len(cell.runs)) for cell in cells]
    table["trainable"] = [f"{trainable_parameters(cell):,}" for cell in cells]
    if any(map(num_head, cells)):
        table["head"] = [f"{num_head(cell):,}" for cell in cells]
    table["init s"] = [f"{mean(init_seconds(run) for run in cell.runs):.2f}" for cell in cells]
    table["train s"] = [f"{mean(seconds(run, 'train') for run in cell.runs):.1f}" for cell in cells]
    return table


def shown_columns(scores: Scores) -> tuple[Column, ...]:
    """All columns, or the first metric of each task where they are too many to read."""
    return scores.columns if len(scores.columns) <= WIDE else scores.first_metrics


def write_tables(study: Study, folder: Path) -> str:
    """Writes results.md, results.csv and results.tex, a table for each task and model; returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    blocks, latex = [], []
    shown: list[Column] = []
    several = len(study.parts) > 1
    for place, part in study.parts.items():
        table, scores = summary(part), collect(part.cells)
        columns = shown_columns(scores)
        shown += columns
        blocks += [f"## {', '.join(place)}"] * several + [_markdown(table), *remarks(part, scores, columns)]
        latex += [f"% {', '.join(place)}\n"] * several + [_latex(table)]
    blocks.append(note(shown, any(map(num_head, study.cells))))
    blocks += [f"Failed, not counted: `{run.run_id}`: {(run.error or {}).get('message')}" for run in study.failed]
    blocks += [f"Not readable, left out: `{name}`" for name in study.unreadable]
    markdown = "\n\n".join(blocks) + "\n"
    (folder / "results.md").write_text(markdown, encoding="utf-8")
    numbers(study).to_csv(folder / "results.csv", index=False, lineterminator="\n")
    (folder / "results.tex").write_text("".join(latex), encoding="utf-8")
    return markdown


def _cell_numbers(cell: Cell) -> dict[str, Any]:
    task, model = cell.place
    named = {"method": cell.method, "label": cell.label, "task": task, "model": model}
    return named | _shown_axes(cell) | {"learning_rate": _learning_rate(cell)}


def _cell_costs(cell: Cell) -> dict[str, Any]:
    return {
        "trainable_parameters": trainable_parameters(cell),
        "head_parameters": num_head(cell),
        "init_seconds": mean(init_seconds(run) for run in cell.runs),
        "train_seconds": mean(seconds(run, "train") for run in cell.runs),
    }


def _learning_rate(cell: Cell) -> float | None:
    return cell.runs[0].config["train"]["learning_rate"] if cell.trained else None


def _shown_axes(cell: Cell) -> dict[str, Any]:
    """The axes without the learning rate, which has a column of its own."""
    return {axis: value for axis, value in cell.axes.items() if axis != "train.learning_rate"}


def _metric(cells: list[Cell], scores: Scores, column: Column) -> list[str]:
    """The texts of one metric; a number that is not above the majority class has a dagger."""
    found = [reached.get(column) for reached in scores.found]
    texts = _marked([one.estimate if one else None for one in found], column.scale, column.higher_is_better)
    stuck = [one is not None and flagged(cell, one.above_majority) for cell, one in zip(cells, found, strict=True)]
    return [f"{text} {DAGGER}" if dagger else text for text, dagger in zip(texts, stuck, strict=True)]


def _marked(estimates: list[Estimate | None], scale: Scale, higher_is_better: bool) -> list[str]:
    """The texts of a column, the clear best between **."""
    best = clear_best(estimates, higher_is_better)
    texts = [_text(found, scale) for found in estimates]
    return [f"**{text}**" if index == best else text for index, text in enumerate(texts)]


def _text(found: Estimate | None, scale: Scale) -> str:
    if found is None:
        return DASH
    if found.low is None or found.high is None:
        return scale.text(found.mean)
    return f"{scale.text(found.mean)} [{scale.text(found.low)}, {scale.text(found.high)}]"


def _markdown(table: pd.DataFrame) -> str:
    left = ("left",) + ("right",) * (table.shape[1] - 1)
    return table.to_markdown(index=False, colalign=left, disable_numparse=True)


def _latex(table: pd.DataFrame) -> str:
    """booktabs; Markdown's ** becomes \\textbf."""
    escaped = table.map(_latex_text)
    escaped.columns = [_latex_text(name) for name in table.columns]
    return escaped.to_latex(index=False, column_format="l" + "r" * (table.shape[1] - 1), escape=False)


def _latex_text(text: str) -> str:
    if text.startswith("**"):
        number, _, behind = text.removeprefix("**").partition("**")
        return rf"\textbf{{{_latex_text(number)}}}{_latex_text(behind)}"
    for character in "&%$#_":
        text = text.replace(character, rf"\{character}")
    return text.replace(DASH, "--").replace(DAGGER, r"\textdagger{}")
