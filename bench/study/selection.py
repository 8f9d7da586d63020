"""Learning rates: the grid around a centre, and the choice of the best one by scores on the validation split.

Each group (method, rank, task, model) chooses from the records of its own grid alone; all grids have the same size.
Chosen is the rate with the best mean over seeds, the smaller of equal ones; a rate at which a seed failed is out.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, TypeVar

from bench.runs.record import COMPLETED, Record
from bench.runs.record_parts import Score

# Mantissas of a decade by points per decade: half decades and the 1-2-5 series.
SERIES = {1: (1,), 2: (1, 3), 3: (1, 2, 5)}
# Means of equal scores differ in the last bit with their number; far below one item of any test set.
ROUNDING = 1e-9
EVAL_LOSS = "eval_loss"

Item = TypeVar("Item")


@dataclass(frozen=True)
class Point:
    """One learning rate: the value of each seed that completed, and the number of seeds that did not."""

    learning_rate: float
    values: tuple[float, ...]
    failed: int = 0

    @property
    def mean(self) -> float | None:
        """Mean over seeds; None if a seed failed or a value is not finite."""
        if self.failed or not self.values or not all(map(math.isfinite, self.values)):
            return None
        return fmean(self.values)


@dataclass(frozen=True)
class Selection:
    """The learning rates of one group, ascending, with the values by which the best is chosen.

    Attributes:
        metric: name of the values: a metric's name, "mean of 3 first metrics", or eval_loss.
    """

    group: tuple[str, ...]
    method: str
    label: str
    points: tuple[Point, ...]
    metric: str
    higher_is_better: bool

    @property
    def best(self) -> Point | None:
        """The point with the best mean, of equal ones the smaller rate; None if every rate failed."""
        sign = 1 if self.higher_is_better else -1
        found: Point | None = None
        for point in self.points:
            if point.mean is None:
                continue
            if found is None or sign * point.mean > sign * found.mean + ROUNDING:  # type: ignore[operator]
                found = point
        return found

    @property
    def at_edge(self) -> Literal["lower", "upper"] | None:
        """The end of the grid at which the best rate lies, beyond which a better one may be; None if inside."""
        if self.best is self.points[0]:
            return "lower"
        return "upper" if self.best is self.points[-1] else None


def on_grid(centre: float, steps: int, per_decade: int = 2) -> float:
    """The rate `steps` places above a centre, or below it, in the 1-3-10 series (2 a decade) or the 1-2-5 series (3).

    Raises:
        ValueError: the centre is not in the series.
    """
    series = SERIES[per_decade]
    decade = math.floor(math.log10(centre) + ROUNDING)
    mantissa = centre / 10.0**decade
    place = next((i for i, m in enumerate(series) if math.isclose(m, mantissa, rel_tol=1e-6)), None)
    if place is None:
        raise ValueError(f"{centre:g} is not in the series {'-'.join(map(str, (*series, 10)))} of a grid's centre")
    decades, index = divmod(place + steps, len(series))
    return float(f"{series[index]}e{decade + decades}")


def grid(centre: float, points: int, per_decade: int = 2) -> tuple[float, ...]:
    """The learning rates of a grid, ascending, with the centre in the middle.

    Raises:
        ValueError: `points` is not an odd positive number, or the centre is not in the series.
    """
    if points < 1 or points % 2 == 0:
        raise ValueError(f"points={points}: a grid has an odd number of points, its centre in the middle")
    half = points // 2
    return tuple(on_grid(centre, step, per_decade) for step in range(-half, half + 1))


def select(group: tuple[str, ...], records: Sequence[Record]) -> Selection:
    """Collects the values of one group's grid from its records, failed runs included.

    The value of a run is the mean of the first metrics of its datasets or, if it scores none, its eval loss.

    Raises:
        ValueError: of these metrics some are better when higher and others when lower.
    """
    by_rate: dict[float, list[Record]] = defaultdict(list)
    for record in records:
        by_rate[record.config.train.learning_rate or 0.0].append(record)
    completed = [record for record in records if record.status == COMPLETED]
    metric, higher = _metric(completed)
    points = []
    for rate in sorted(by_rate):
        runs = sorted(by_rate[rate], key=lambda record: record.config.seed)
        values = tuple(_value(run) for run in runs if run.status == COMPLETED)
        points.append(Point(rate, values, sum(run.status != COMPLETED for run in runs)))
    first = records[0]
    return Selection(group, first.config.method.name, first.label, tuple(points), metric, higher)


def first_of_each(items: Iterable[Item], dataset: Callable[[Item], Any]) -> list[Item]:
    """The first item of each dataset, such as its first metric, which stands for it in a choice or an average."""
    found: dict[Any, Item] = {}
    for item in items:
        found.setdefault(dataset(item), item)
    return list(found.values())


def _first_metrics(record: Record) -> list[Score]:
    return first_of_each(record.scores, lambda score: score.task)


def _metric(records: Iterable[Record]) -> tuple[str, bool]:
    scores = next((_first_metrics(record) for record in records if record.scores), [])
    if not scores:
        return EVAL_LOSS, False
    directions = {score.higher_is_better for score in scores}
    if len(directions) > 1:
        names = ", ".join(f"{score.task} {score.metric}" for score in scores)
        raise ValueError(f"no learning rate can be chosen by metrics of both directions: {names}")
    name = scores[0].metric if len(scores) == 1 else f"mean of {len(scores)} first metrics"
    return name, directions.pop()


def _value(record: Record) -> float:
    values = [score.value for score in _first_metrics(record)] or [record.eval_loss]
    return fmean(math.nan if value is None else value for value in values)
