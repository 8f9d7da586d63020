"""The columns that other stages add to a study's table, and the tables of the learning-rate selection."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from typing import Any

import pandas as pd

from bench.report.judge.comparisons import Judged
from bench.report.judge.metrics import Scale, scale_of
from bench.report.judge.scores import Sample, sample_estimate
from bench.report.read.fits import fits_text, unequal_fits
from bench.report.read.load import Cell, Study
from bench.report.tables.render import DASH, SD, deviation_text, interval_text
from bench.study.plan_file import PUBLISHED, RATE_KEY, SHARED, TUNED
from bench.study.selection import Selection

TITLES = {SHARED: "shared learning rate", PUBLISHED: "as published"}
Others = Mapping[str, Judged]  # the scored stages of one task and model beside the study's own


def alone(cells: Sequence[Cell], others: Others) -> list[Cell]:
    """One cell of each group that only another stage than that of `cells` has."""
    known = {cell.group for cell in cells}
    found: dict[tuple[str, ...], Cell] = {}
    for judged in others.values():
        for cell in judged.cells:
            found.setdefault(cell.group, cell)
    return [cell for group, cell in found.items() if group not in known]


def side_columns(rows: Sequence[Cell], others: Others, errors: str) -> dict[str, list[str]]:
    """For each other stage its first metrics or their average, the learning rate and n; rows match by group."""
    texts: dict[str, list[str]] = {}
    for stage, judged in others.items():
        places = {cell.group: index for index, cell in reversed(list(enumerate(judged.cells)))}
        found = [places.get(cell.group) for cell in rows]
        averages = [one for one in judged.measured if one.column is None]
        for one in averages or [one for one in judged.measured if one.column in judged.scores.first_metrics]:
            shown = [DASH if s is None else _text(s, one.scale, errors) for s in one.samples]
            texts[f"{TITLES.get(stage, stage)}: {one.heading}"] = [DASH if i is None else shown[i] for i in found]
        cells = [None if index is None else judged.cells[index] for index in found]
        texts[f"{stage}: learning rate"] = [DASH if cell is None else rate_text(cell) for cell in cells]
        texts[f"{stage}: n"] = [DASH if cell is None else str(len(cell.runs)) for cell in cells]
    return texts


def _text(sample: Sample, scale: Scale, errors: str) -> str:
    if errors == SD:
        return deviation_text(sample.values.tolist(), scale)
    return interval_text(sample_estimate(sample, scale), scale)


def rate_text(cell: Cell, edges: Container[tuple[str, ...]] = ()) -> str:
    """The learning rate of a row; marked where it is the smallest or largest tried."""
    if cell.learning_rate is None:
        return DASH
    return f"{cell.learning_rate:g}" + (" (edge)" if cell.group in edges else "")


def edges(study: Study) -> set[tuple[str, ...]]:
    """The groups whose tuned rate is the smallest or largest tried."""
    return {selection.group for selection in study.selection if selection.at_edge and study.stage == TUNED}


def rate_remark(study: Study, others: Sequence[str]) -> str:
    """How the learning rates were selected or, in a study without selection, where they are from."""
    chosen = study.selection
    if not chosen:
        return _not_searched(study)
    text = _search_text(chosen)
    if fits := unequal_fits(study.plan, study.members, {selection.group for selection in chosen}):
        text += f" Fits, not as many in every row: {fits_text(fits)}."
    if others:
        text += (
            f" Beside them the same rows of the stages {', '.join(others)}, matched by row; their n and rate follow."
        )
    edge = [selection for selection in chosen if selection.at_edge]
    if edge:
        named = ", ".join(f"{_name(selection)} {selection.at_edge}" for selection in edge)
        text += (
            f" (edge): the best rate is the smallest or largest tried, a better one may lie beyond: {named}; "
            f"`python -m bench.run -m +experiments={study.name} hydra.sweeper.rates.reserve=4` adds the missing points."
        )
    return text


def _not_searched(study: Study) -> str:
    """Where each row's learning rate is from that this study did not search."""
    planned = {run.run_id: run.overrides for run in (study.plan.runs if study.plan else ())}
    rows: dict[str, dict[str, None]] = defaultdict(dict)
    for cell in study.cells:
        for run in cell.runs if cell.trained else ():
            given = RATE_KEY in " ".join((run.command or "", *planned.get(run.run_id, ())))
            of_method = run.config.model.source == "embedded"
            default = "conf/method's for the embedded models" if of_method else "those of the experiment's file"
            source = "given" if given else run.config.learning_rate_source or default
            rows[source.partition(", the largest eigenvalue")[0]][cell.label] = None
    everyone = len({label for labels in rows.values() for label in labels})
    said = [
        f"{source} ({'every method' if len(labels) == everyone > 1 else ', '.join(labels)})"
        for source, labels in rows.items()
    ]
    return f"Learning rates, which this study did not search: {'; '.join(said)}." if said else ""


def _search_text(chosen: Sequence[Selection]) -> str:
    counts = sorted({selection.num_fits if selection.rungs else len(selection.points) for selection in chosen})
    numbers = "–".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    if not any(selection.rungs for selection in chosen):
        return f"Learning rates: the best of {numbers} a row on the validation split, under other seeds (rates.md)."
    budgets = {tuple(rung.steps for rung in selection.rungs) for selection in chosen}
    first = f"{', '.join(map(str, budgets.pop()))} steps" if len(budgets) == 1 else "shares of each row's own steps"
    return (
        "Learning rates: the vertex of each row's own curve on the validation split, by the loss of its targets, "
        f"under other seeds, from {numbers} fits a row, with {first} before all (rates.md)."
    )


def rates_table(study: Study) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """The whole curve: a row a group, a column a learning rate, the best marked with **; by task and model."""
    tables = []
    for place, found in study.selection_by_place.items():
        every_rate = sorted({point.learning_rate for selection in found for point in selection.points})
        rows = [
            {"method": _name(selection), "metric": selection.metric}
            | dict.fromkeys((f"{rate:g}" for rate in every_rate), DASH)
            | {f"{point.learning_rate:g}": _point(selection, point) for point in selection.points}
            | {"points": str(len(selection.points))}
            | {"n": "–".join(map(str, sorted({len(point.values) + point.failed for point in selection.points})))}
            | _choice(selection)
            for selection in found
        ]
        tables.append((place, pd.DataFrame(rows)))
    return tables


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
            **_budget(selection, steps, point),
        }
        for place, found in study.selection_by_place.items()
        for selection in found
        for steps, points in (*((rung.steps, rung.points) for rung in selection.rungs), (None, selection.points))
        for point in points
    )


def _budget(selection: Selection, steps: int | None, point: Any) -> dict[str, Any]:
    """Of a search: the budget of a point, and at the full one the rate that was taken; nothing for a grid."""
    if not selection.rungs:
        return {}
    values = ",".join(f"{value:.6g}" for value in point.values)
    return {"smaller_budget": steps, "vertex": None if steps else selection.vertex, "values": values}


def _choice(selection: Selection) -> dict[str, str]:
    """The rate that was taken, and the rates that do as well; nothing for a grid of one seed."""
    if selection.plateau is None:
        return {}
    low, high = (f"{rate:g}" for rate in selection.plateau)
    return {"vertex": f"{selection.vertex:g}", "within one s.e.": low if low == high else f"{low} to {high}"}


def _point(selection: Selection, point: Any) -> str:
    """The mean of a point, or how many of its seeds failed."""
    if point.mean is None:
        return f"{point.failed} failed" if point.failed else "nan"
    text = scale_of(selection.metric).text(point.mean)
    if point is not selection.best:
        return text
    return f"**{text}**" + (" (edge)" if selection.at_edge else "")


def _name(selection: Selection) -> str:
    """The label and the group's settings beside the method."""
    others = [text.partition("=")[2] for text in selection.group if not text.startswith("method=")]
    return ", ".join([selection.label, *others])
