"""The columns that other stages add to a study's table, and the tables of the learning-rate selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from bench.report.judge.comparisons import Judged, judge
from bench.report.judge.metrics import EVAL_LOSS, base_name, scale_of
from bench.report.judge.scores import sample_estimate
from bench.report.read.load import Cell, Study
from bench.report.tables.render import DASH, interval_text
from bench.study.plan_file import PUBLISHED, SELECT, SHARED, TUNED
from bench.study.selection import Selection

TITLES = {SHARED: "shared learning rate", PUBLISHED: "as published"}


@dataclass(frozen=True)
class Sides:
    """The other scored stages of one table, by name."""

    stages: Mapping[str, Judged] = field(default_factory=dict)

    def alone(self, cells: Sequence[Cell]) -> list[Cell]:
        """One cell of each group that the main stage lacks."""
        known = {cell.group for cell in cells}
        found: dict[tuple[str, ...], Cell] = {}
        for judged in self.stages.values():
            for cell in judged.cells:
                if cell.group not in known:
                    found.setdefault(cell.group, cell)
        return list(found.values())

    def columns(self, rows: Sequence[Cell]) -> dict[str, list[str]]:
        """For each stage its first metrics or their average, the learning rate and n; rows match by group."""
        texts: dict[str, list[str]] = {}
        for stage, judged in self.stages.items():
            places: dict[tuple[str, ...], int] = {}
            for index, cell in enumerate(judged.cells):
                places.setdefault(cell.group, index)
            found = [places.get(cell.group) for cell in rows]
            first = set(judged.scores.first_metrics)
            shown = [one for one in judged.measured if one.column is None] or [
                one for one in judged.measured if one.column in first
            ]
            for one in shown:
                estimates = [None if s is None else sample_estimate(s, one.scale) for s in one.samples]
                name = f"{TITLES.get(stage, stage)}: {one.heading}"
                texts[name] = [DASH if i is None else interval_text(estimates[i], one.scale) for i in found]
            cells = [None if index is None else judged.cells[index] for index in found]
            texts[f"{stage}: learning rate"] = [_rate(None if cell is None else cell.learning_rate) for cell in cells]
            texts[f"{stage}: n"] = [DASH if cell is None else str(len(cell.runs)) for cell in cells]
        return texts


def sides_of(study: Study, place: tuple[str, str]) -> Sides:
    """The stages beside the study's own and the selection, for one task and model."""
    others = {stage: study.at(stage).by_task_and_model for stage in study.stages if stage not in (SELECT, study.stage)}
    return Sides({stage: judge(parts[place].cells) for stage, parts in others.items() if place in parts})


def edges(study: Study) -> dict[tuple[str, ...], str]:
    """The groups whose tuned rate is the smallest ("lower") or largest ("upper") tried."""
    if study.stage != TUNED:
        return {}
    return {selection.group: selection.at_edge for selection in study.selection if selection.at_edge}


def rate_remark(study: Study, others: Mapping[str, Any]) -> str:
    """How the learning rates were selected; "" for a study without selection."""
    chosen = study.selection
    if not chosen:
        return ""
    counts = sorted({len(selection.points) for selection in chosen})
    grids = "–".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    text = f"Learning rates: the best of {grids} a row on the validation split, under other seeds (rates.md)."
    if others:
        text += (
            f" Beside them the same rows of the stages {', '.join(others)}, matched by row; their n and rate follow."
        )
    edge = [selection for selection in chosen if selection.at_edge]
    if edge:
        named = ", ".join(f"{_name(selection)} {selection.at_edge}" for selection in edge)
        text += (
            f" (edge): the best rate is the smallest or largest tried, a better one may lie beyond: {named}; "
            f"`python -m bench.run -m +experiments={study.name} hydra.sweeper.extend=4` adds the missing points."
        )
    return text


def rates_table(study: Study) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """The whole curve: a row a group, a column a learning rate, the best marked with **; by task and model."""
    return [(place, _curves(found)) for place, found in study.selection_by_place.items()]


def rates_numbers(study: Study) -> pd.DataFrame:
    """One row a group and learning rate, every number unrounded."""
    return pd.DataFrame(
        {
            "task": place[0],
            "model": place[1],
            "method": selection.method,
            "label": selection.label,
            "group": " ".join(selection.group),
            "metric": selection.metric,
            "higher_is_better": selection.higher_is_better,
            "learning_rate": point.learning_rate,
            "mean": point.mean,
            "n": len(point.values),
            "failed": point.failed,
            "best": point is selection.best,
            "at_edge": selection.at_edge if point is selection.best else None,
            "num_points": len(selection.points),
        }
        for place, found in study.selection_by_place.items()
        for selection in found
        for point in selection.points
    )


def _curves(found: Sequence[Selection]) -> pd.DataFrame:
    every_rate = sorted({point.learning_rate for selection in found for point in selection.points})
    rows = []
    for selection in found:
        texts = {point.learning_rate: _point(selection, point) for point in selection.points}
        seeds = sorted({len(point.values) + point.failed for point in selection.points})
        rows.append(
            {"method": _name(selection), "metric": selection.metric}
            | {f"{rate:g}": texts.get(rate, DASH) for rate in every_rate}
            | {"points": str(len(selection.points)), "n": "–".join(map(str, seeds))}
        )
    return pd.DataFrame(rows)


def _point(selection: Selection, point: Any) -> str:
    """The mean of a point, or how many of its seeds failed."""
    if point.mean is None:
        return f"{point.failed} failed" if point.failed else "nan"
    text = _metric_scale(selection).text(point.mean)
    if point is not selection.best:
        return text
    return f"**{text}**" + (" (edge)" if selection.at_edge else "")


def _metric_scale(selection: Selection) -> Any:
    return scale_of(EVAL_LOSS if selection.metric == EVAL_LOSS else base_name(selection.metric))


def _name(selection: Selection) -> str:
    """The label and the group's settings beside the method."""
    others = [text.partition("=")[2] for text in selection.group if not text.startswith("method=")]
    return ", ".join([selection.label, *others])


def _rate(rate: float | None) -> str:
    return DASH if rate is None else f"{rate:g}"
