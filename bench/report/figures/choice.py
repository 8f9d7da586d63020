"""What is drawn of a study that is too large for its figures: the best of each method, the figures most asked for.

Beyond some two dozen lines no reader tells one from another, and each figure takes about a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from bench.report.judge.comparisons import measured, ranked
from bench.report.judge.scores import collect
from bench.report.read.load import Cell, Study
from bench.study.plan_file import SELECT
from bench.study.selection import Selection

MOST_CELLS = 24  # rows of a table in one figure
MOST_FIGURES = 32  # of one report
RATES = "rates"
# What each kind of figure shows, in the order in which a large study drops them from the end.
KINDS = {
    RATES: "Score on the validation split against learning rate; the best of each method is marked",
    "score": "Score against trainable parameters, with 95 % intervals",
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
    """Which kinds of figures are drawn of which places, and of how many rows at most.

    Attributes:
        note: what is left out, in words; "" for nothing.
        most_cells: None for all of them.
    """

    kinds: tuple[str, ...]
    places: tuple[Place, ...]
    most_cells: int | None = MOST_CELLS
    note: str = ""


def choose(study: Study, places: Sequence[Place], every: bool = False) -> Choice:
    """What to draw of a study's places, those with records and those with learning rates.

    Args:
        every: leave nothing out, whatever time it takes.
    """
    scored = bool(study.cells) and study.stage != SELECT
    kinds = tuple(kind for kind in KINDS if (study.selection if kind == RATES else scored))
    if every:
        return Choice(kinds, tuple(places), None)
    kept = kinds[: max(1, MOST_FIGURES // max(1, len(places)))]
    drawn = tuple(places[:MOST_FIGURES])
    left_out = []
    if len(kept) < len(kinds):
        left_out.append(f"those of {', '.join(kinds[len(kept) :])}")
    if len(drawn) < len(places):
        left_out.append(f"those of {len(places) - len(drawn):,} of {len(places):,} tasks and models")
    rows = max(
        [
            0,
            *(len(part.cells) for part in study.by_task_and_model.values()),
            len(study.selection) // max(1, len(places)),
        ]
    )
    if rows > MOST_CELLS:
        left_out.append(f"all but each method's best of up to {rows:,} rows")
    if not left_out:
        return Choice(kinds, tuple(places))
    note = f"Left out of the figures: {'; '.join(left_out)}. `python -m bench.report {study.name} --every-figure` "
    return Choice(kept, drawn, MOST_CELLS, note + "draws them all; the tables have every number.")


def best_cells(cells: Sequence[Cell], most: int | None) -> list[Cell]:
    """As many of each method, the best ones, as there is room for; the cells' order stays."""
    if most is None or len(cells) <= most:
        return list(cells)
    scores = collect(cells)
    columns = measured(scores, scores.shown)
    order = ranked(columns[-1 if scores.averaged else 0]) if columns else []
    return _best(cells, [cells[place] for place in order], most)


def best_selections(selections: Sequence[Selection], most: int | None) -> list[Selection]:
    """The same of the curves over learning rates, by their best points."""
    if most is None or len(selections) <= most:
        return list(selections)
    known = [(one.best.mean, one) for one in selections if one.best is not None and one.best.mean is not None]
    known.sort(key=lambda pair: -pair[0] if pair[1].higher_is_better else pair[0])
    return _best(selections, [one for _, one in known], most)


def _best(everyone: Sequence[Drawn], best_first: Sequence[Drawn], most: int) -> list[Drawn]:
    by_method: dict[str, list[Drawn]] = {}
    for one in (*best_first, *everyone):
        own = by_method.setdefault(one.method, [])
        if not any(one is other for other in own):
            own.append(one)
    each = max(1, most // len(by_method))
    kept = [one for own in list(by_method.values())[:most] for one in own[:each]]
    return [one for one in everyone if any(one is other for other in kept)]
