"""Which figures and rows of a large study are drawn: the best rows of each method, the kinds that say most.

Beyond some two dozen lines no reader tells one from another, and each figure takes about a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import pandas as pd

from bench.report.judge.comparisons import measured, ranked
from bench.report.judge.scores import collect
from bench.report.read.load import Cell, Study
from bench.study.plan_file import SEARCH, SELECT
from bench.study.selection import Selection

MOST_CELLS = 24  # rows of a table in one figure
MOST_FIGURES = 32  # of one report
RATES, CURVATURE, RETENTION = "rates", "curvature", "retention"
# What each kind of figure shows, in the order in which a large study drops them from the end.
KINDS = {
    RATES: "Score on the validation split against learning rate; the best of each method is marked",
    CURVATURE: "Best learning rate against the largest eigenvalue of the Hessian at step 0, plain and preconditioned",
    "score": "Score against trainable parameters, with 95 % intervals",
    "axis": "Score against the swept key, a line a method, with 95 % intervals",
    RETENTION: "Score against forgetting, the rise of the loss on text of the pretraining kind, with 95 % intervals",
    "convergence": "Training and eval loss against step, tokens and seconds, initialisation included; mean over "
    "seeds and their range",
    "target": "What it takes to reach an eval loss: the seeds, their median and range",
    "cost": "Seconds and peak memory of initialisation",
    "alignment": "Cosine of the induced and the full gradient, and captured energy, against step",
    "layers": "Cosine of the induced and the full gradient of each layer at each step; mean over seeds",
    "features": "Norms of the features behind A and behind B against step; means over tokens and layers",
}

Place = tuple[str, str]  # the names of task and model
Drawn = TypeVar("Drawn", bound=Cell | Selection)


@dataclass(frozen=True)
class Choice:
    """What is drawn of a study.

    Attributes:
        kinds: keys of KINDS.
        places: names of task and model.
        most_cells: rows a figure; None for all.
        note: what is left out, in words; "" for nothing.
    """

    kinds: tuple[str, ...]
    places: tuple[Place, ...]
    most_cells: int | None = MOST_CELLS
    note: str = ""


def choose(study: Study, places: Sequence[Place], every: bool = False) -> Choice:
    """Chooses at most MOST_FIGURES figures of MOST_CELLS rows.

    Args:
        study: with the cells of its main stage.
        places: names of task and model of everything that can be drawn.
        every: leave nothing out, whatever time it takes.
    """
    scored = bool(study.cells) and study.stage not in (SEARCH, SELECT)
    measured = any(run.forgetting is not None for cell in study.cells for run in cell.runs)
    there = {RATES: bool(study.selection), CURVATURE: bool(study.selection), RETENTION: scored and measured}
    kinds = tuple(kind for kind in KINDS if there.get(kind, scored))
    if every:
        return Choice(kinds, tuple(places), None)
    kept, drawn = kinds[: max(1, MOST_FIGURES // max(1, len(places)))], tuple(places[:MOST_FIGURES])
    largest = max((len(part.cells) for part in study.by_task_and_model.values()), default=0)
    rows = max(largest, len(study.selection) // max(1, len(places)))
    left_out = [f"those of {', '.join(kinds[len(kept) :])}"] * (len(kept) < len(kinds))
    undrawn = len(places) - len(drawn)
    left_out += [f"those of {undrawn:,} of {len(places):,} tasks and models"] * (undrawn > 0)
    left_out += [f"all but each method's best of up to {rows:,} rows"] * (rows > MOST_CELLS)
    note = f"Left out of the figures: {'; '.join(left_out)}. `python -m bench.report {study.name} --every-figure` "
    note += "draws them all; the tables have every number."
    return Choice(kept, drawn, MOST_CELLS, note if left_out else "")


def best_cells(cells: Sequence[Cell], most: int | None) -> list[Cell]:
    """The best cells of each method, at most `most` in all, in their order."""
    if most is None or len(cells) <= most:
        return list(cells)
    scores = collect(cells)
    columns = measured(scores, scores.shown)
    return _best(cells, ranked(columns[-1 if scores.averaged else 0]) if columns else [], most)


def best_selections(selections: Sequence[Selection], most: int | None) -> list[Selection]:
    """The curves over learning rates with the best peaks of each method, at most `most` in all, in their order."""
    if most is None or len(selections) <= most:
        return list(selections)
    peaks = {place: one.best.mean for place, one in enumerate(selections) if one.best and one.best.mean is not None}
    return _best(selections, sorted(peaks, key=peaks.__getitem__, reverse=selections[0].higher_is_better), most)


def _best(rows: Sequence[Drawn], best_first: Sequence[int], most: int) -> list[Drawn]:
    order = [*best_first, *sorted(set(range(len(rows))) - set(best_first))]
    methods = pd.Series([rows[place].method for place in order], index=order)
    among = methods[methods.isin(methods.unique()[:most])]
    return [rows[place] for place in sorted(among.groupby(among).head(max(1, most // methods.nunique())).index)]
