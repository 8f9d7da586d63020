"""The table of a study: a cell a row, a metric a column; as Markdown, CSV (numbers apart) and LaTeX."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd

from bench.record import Record
from bench.report.load import Cell, Study
from bench.report.statistics import Estimate, estimate

DASH = "–"
NOTE = (
    "Mean [95 % interval]. With several seeds the interval is Student's t over seeds; with one run it is over its "
    "items. Bold: the highest mean, if its interval does not hold the runner-up's. Init: calibration and "
    "factorisation; train: the training loop without the alignment measures; seconds, means over seeds."
)


def estimates(cell: Cell) -> dict[tuple[str, str], Estimate]:
    """(task, metric) -> estimate over the cell's runs."""
    by_metric: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in cell.runs:
        for score in run.scores:
            by_metric.setdefault((score["task"], score["metric"]), []).append(score)
    return {
        key: estimate([score["value"] for score in scores], scores[0]["stderr"], key[1])
        for key, scores in by_metric.items()
    }


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


def numbers(study: Study) -> pd.DataFrame:
    """One row a cell and metric, every number unrounded; missing is NaN."""
    rows = []
    for cell in study.cells:
        for (task, metric), found in estimates(cell).items():
            rows.append(
                {"method": cell.method, "label": cell.label}
                | _shown_axes(cell)
                | {
                    "learning_rate": cell.runs[0].config["train"]["learning_rate"] if cell.runs[0].training else None,
                    "task": task,
                    "metric": metric,
                    "mean": found.mean,
                    "low": found.low,
                    "high": found.high,
                    "interval_over": found.over,
                    "n": found.n,
                    "num_examples": next(
                        score["num_examples"]
                        for score in cell.runs[0].scores
                        if (score["task"], score["metric"]) == (task, metric)
                    ),
                    "trainable_parameters": trainable_parameters(cell),
                    "init_seconds": mean(init_seconds(run) for run in cell.runs),
                    "train_seconds": mean(seconds(run, "train") for run in cell.runs),
                }
            )
    return pd.DataFrame(rows)


def summary(study: Study) -> pd.DataFrame:
    """The table to read: strings, one row a cell, metrics as columns; the best of a metric marked with **."""
    found = [estimates(cell) for cell in study.cells]
    metrics = list(dict.fromkeys(key for cell in found for key in cell))
    best = {key: _clear_best([cell.get(key) for cell in found]) for key in metrics}
    rows = []
    for index, cell in enumerate(study.cells):
        first = cell.runs[0]
        row = {"method": cell.label}
        row |= {axis: DASH if value is None else str(value) for axis, value in _shown_axes(cell).items()}
        row["learning rate"] = f"{first.config['train']['learning_rate']:g}" if first.training else DASH
        for key in metrics:
            text = _percent(found[index].get(key))
            row[_heading(key, metrics)] = f"**{text}**" if best[key] == index else text
        row["n"] = str(len(cell.runs))
        row["trainable"] = f"{trainable_parameters(cell):,}"
        row["init s"] = f"{mean(init_seconds(run) for run in cell.runs):.2f}"
        row["train s"] = f"{mean(seconds(run, 'train') for run in cell.runs):.1f}"
        rows.append(row)
    return pd.DataFrame(rows)


def write_tables(study: Study, folder: Path) -> str:
    """Writes results.md, results.csv and results.tex; returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    table = summary(study)
    left = ("left",) + ("right",) * (table.shape[1] - 1)
    markdown = table.to_markdown(index=False, colalign=left, disable_numparse=True) + f"\n\n{NOTE}\n"
    for record in study.failed:
        markdown += f"\nFailed, not counted: `{record.run_id}`: {(record.error or {}).get('message')}\n"
    for name in study.unreadable:
        markdown += f"\nNot readable, left out: `{name}`\n"
    (folder / "results.md").write_text(markdown, encoding="utf-8")
    numbers(study).to_csv(folder / "results.csv", index=False, lineterminator="\n")
    (folder / "results.tex").write_text(_latex(table), encoding="utf-8")
    return markdown


def _shown_axes(cell: Cell) -> dict[str, Any]:
    """The axes without the learning rate, which has a column of its own."""
    return {axis: value for axis, value in cell.axes.items() if axis != "train.learning_rate"}


def _clear_best(column: list[Estimate | None]) -> int | None:
    """The row of the highest mean, if its interval does not hold the second highest."""
    ranked = sorted(((e.mean, i) for i, e in enumerate(column) if e is not None), reverse=True)
    if len(ranked) < 2:
        return None
    leader = column[ranked[0][1]]
    assert leader is not None
    return ranked[0][1] if leader.low is not None and leader.low > ranked[1][0] else None


def _heading(key: tuple[str, str], metrics: list[tuple[str, str]]) -> str:
    task, metric = key
    name, _, filtered = metric.partition(",")
    several = len({m for t, m in metrics if t == task and m.partition(",")[0] == name}) > 1
    return f"{task} {name} ({filtered}) %" if several else f"{task} {name} %"


def _percent(found: Estimate | None) -> str:
    if found is None:
        return DASH
    if found.low is None or found.high is None:
        return f"{100 * found.mean:.1f}"
    return f"{100 * found.mean:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _latex(table: pd.DataFrame) -> str:
    """booktabs; Markdown's ** becomes \\textbf."""
    bold = table.map(lambda text: rf"\textbf{{{text.strip('*')}}}" if text.startswith("**") else text)
    bold = bold.map(lambda text: text.replace("_", r"\_").replace("%", r"\%").replace(DASH, "--"))
    bold.columns = [name.replace("_", r"\_").replace("%", r"\%") for name in bold.columns]
    return bold.to_latex(index=False, column_format="l" + "r" * (table.shape[1] - 1), escape=False)
