"""Questions to a study's records: pure functions from a study and two of its groups to an answer.

A group names overrides, such as {"method": "lora_sb", "rank": "r8"}, and selects the cells whose group in the study's
plan has them. Overrides that no group of the study sets are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from scipy import stats

from bench.report.judge.comparisons import paired
from bench.report.judge.metrics import SHARE, Scale
from bench.report.judge.scores import Column, Sample, average, collect
from bench.report.judge.statistics import CONFIDENCE, ROUNDING, Estimate, estimate
from bench.report.read.curves import Curve, reach, read_curves
from bench.report.read.load import Cell, ReportError, Study
from bench.report.tables.render import DASH
from bench.study.selection import Selection

Group = Mapping[str, str]
YES, NO, NOT_SETTLED = "yes", "no", "not settled"
UNBOUNDED = Scale(low=-math.inf, high=math.inf)
POWER = 0.8  # of the minimum detectable effect


class NotRunError(ReportError):
    """The study has no run that the question needs."""


@dataclass(frozen=True)
class Answer:
    """The answer of the records to one question.

    Attributes:
        text: yes, no, not settled, or why the records give no answer.
        details: the numbers behind it, on one line.
        estimate: in `unit`; None if there is none, as when a target loss was not reached.
        low, high: the 95 % interval; of learning rates what the grid resolves.
        n: number of seeds, or of widths.
    """

    text: str
    details: str = ""
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    n: int | None = None

    @property
    def interval(self) -> str:
        """Estimate, bounds and unit as printed; a dash without an estimate."""
        if self.estimate is None:
            return DASH
        sign = "+" if self.unit in ("points", "in slope", "") else ""
        bounds = "" if self.low is None or self.high is None else f" [{self.low:{sign}.3g}, {self.high:{sign}.3g}]"
        return f"{self.estimate:{sign}.3g}{bounds} {self.unit}".rstrip()


def higher_score(
    study: Study, a: Group, b: Group, stage: str | None = None, task: str | None = None, margin: float = 0.0
) -> Answer:
    """Does a score higher than b? The paired difference, its interval over seeds and the items that both answered.

    Args:
        study: has records of both.
        a, b: overrides that select one cell each.
        stage: None for the study's main stage.
        task: one dataset; None for the mean of the first metrics of all, without scores the eval loss.
        margin: by how much a may score lower, in the difference's unit; 0 asks for better, more asks for as good.

    Raises:
        NotRunError: no completed run of a or b, or none under a common seed.
        ReportError: an override selects several groups.
    """
    of_a, of_b = _cells(study, stage, a, b)
    sample_a, columns = _sample(of_a, task)
    sample_b, same = _sample(of_b, task)
    seeds = sorted(set(sample_a.seeds) & set(sample_b.seeds))
    if not seeds or columns != same:
        raise NotRunError(f"{_name(of_a)} and {_name(of_b)} have no score under one seed")
    points = all(column.scale.unit == SHARE.unit for column in columns)
    factor, unit = (100.0, "points") if points else (1.0, "")
    sign = 1 if columns[0].higher_is_better else -1
    values, stderr = paired(sample_a, sample_b)
    if sample_a.draws is None or sample_a.items != sample_b.items:
        stderr = None
    means = [float(one.values[[one.seeds.index(seed) for seed in seeds]].mean()) for one in (sample_a, sample_b)]
    found = estimate([sign * factor * float(value) for value in values], stderr and factor * stderr, UNBOUNDED)
    text = _side(found.low, found.high, -margin) if len(seeds) > 1 else NOT_SETTLED
    details = f"{_name(of_a)} {factor * means[0]:.4g}, {_name(of_b)} {factor * means[1]:.4g}"
    if margin:
        details += f"; as good within {margin:g} {unit}".rstrip()
    if len(seeds) == 1:
        details += "; one seed: an interval over items alone settles nothing"
    elif text == NOT_SETTLED:
        smallest = factor * _detectable(values.tolist(), stderr)
        details += f"; {len(seeds)} seeds find a difference of {smallest:.3g} {unit}".rstrip()
    return Answer(text, details, found.mean, found.low, found.high, unit, found.n)


def larger_rate(study: Study, a: Group, b: Group, within: float = 5.0) -> Answer:
    """Is a's best learning rate larger than b's? The answer is the ratio of the two.

    The interval is what grid and scores resolve: every rate that scores nearly as well as the best might be the best,
    and each is known to a step of the grid.

    Args:
        study: has a stage in which learning rates are chosen.
        a, b: overrides that select one group each.
        within: per cent of the best score by which a rate that scores nearly as well may fall behind.
    """
    of_a, of_b = _selection(study, a), _selection(study, b)
    ratio, step = _best(of_a) / _best(of_b), max(_step(of_a), _step(of_b))
    good_a, good_b = _nearly_best(of_a, within), _nearly_best(of_b, within)
    low, high = good_a[0] / good_b[-1] / step, good_a[-1] / good_b[0] * step
    text = _side(low, high, 1.0)
    doubtful = {YES: ("lower", "upper"), NO: ("upper", "lower")}.get(text, ())  # edges beyond which it may turn
    if any(edge and edge == found.at_edge for edge, found in zip(doubtful, (of_a, of_b), strict=False)):
        text = NOT_SETTLED
    largest = [f"{good[-1]:g}" for good in (good_a, good_b)]
    details = (
        f"best {_rate(of_a)} ({of_a.label}) against {_rate(of_b)} ({of_b.label}), {ratio:.3g} times, a step of the "
        f"grid is {step:.3g} times; largest within {within:g} % of the best score: {largest[0]} against {largest[1]}"
    )
    seeds = min(len(selection.best.values) for selection in (of_a, of_b) if selection.best)
    return Answer(text, details, ratio, low, high, "times", seeds)


def fewer_steps(study: Study, a: Group, b: Group, stage: str | None = None) -> Answer:
    """In what share of b's steps does a reach b's final eval loss, each at its own learning rate?

    The loss is measured every few steps; between two measurements it is taken as linear.
    """
    of_a, of_b = _cells(study, stage, a, b)
    ours, theirs = _by_seed(of_a), _by_seed(of_b)
    aims = {seed: theirs[seed].final_eval_loss for seed in sorted(ours.keys() & theirs.keys())}
    aims = {seed: aim for seed, aim in aims.items() if math.isfinite(aim) and len(ours[seed].evaluated)}
    asked = len(aims)
    reached = {seed: at for seed, aim in aims.items() if (at := reach(ours[seed], aim))}
    steps = [at.step / theirs[seed].last("step") for seed, at in reached.items()]
    seconds = [at.seconds / theirs[seed].last("seconds") for seed, at in reached.items()]
    if not asked:
        raise NotRunError(f"{_name(of_a)} and {_name(of_b)} have no curve of the eval loss under one seed")
    target = f"the final eval loss of {_name(of_b)}"
    if len(steps) < asked:
        details = f"{_name(of_a)} does not reach {target} in {asked - len(steps)} of {asked} seeds"
        details += f"; where it does, after {fmean(steps):.0%} of its steps" if steps else ""
        return Answer(NOT_SETTLED if steps else NO, details, None, None, None, "of the steps", asked)
    found, clock = estimate(steps, None, UNBOUNDED), estimate(seconds, None, UNBOUNDED)
    text = {YES: NO, NO: YES}.get(side := _side(found.low, found.high, 1.0), side)
    details = f"{_name(of_a)} reaches {target} after {_share(found)} of its steps"
    details += f" and {_share(clock)} of its seconds, initialisation included"
    return Answer(text, details, found.mean, found.low, found.high, "of the steps", found.n)


def rate_by_width(study: Study, a: Group, b: Group, widths: Mapping[str, int]) -> Answer:
    """Does b's best learning rate fall faster with width than a's? Slopes of log rate against log width.

    Args:
        widths: of each model, by its name.

    The interval is what the grid resolves: each best rate may lie half a step away.
    """
    slopes, doubts, shown = [], [], []
    for group in (a, b):
        found = [_selection(study, {**group, "model": model}) for model in widths]
        x, y = [math.log10(width) for width in widths.values()], [math.log10(_best(one)) for one in found]
        slopes.append(float(stats.linregress(x, y).slope))
        spread = sum((value - fmean(x)) ** 2 for value in x)
        halves = [math.log10(_step(one)) / 2 for one in found]
        doubts.append(sum(abs(value - fmean(x)) / spread * half for value, half in zip(x, halves, strict=True)))
        rates = ", ".join(_rate(one) for one in found)
        shown.append(f"{found[0].label} {slopes[-1]:.2f} ± {doubts[-1]:.2f} (best rates {rates})")
    difference, doubt = slopes[0] - slopes[1], sum(doubts)
    details = f"slope by width {', '.join(map(str, widths.values()))}: {shown[0]}; {shown[1]}"
    low, high = difference - doubt, difference + doubt
    return Answer(_side(low, high, 0.0), details, difference, low, high, "in slope", len(widths))


def fewer_parameters(
    study: Study, a: Group, b: Group, stage: str | None = None, task: str | None = None, margin: float = 0.0
) -> Answer:
    """Does a score higher than b, or as high within `margin`, although it trains fewer parameters?

    Args and Raises are those of `higher_score`.
    """
    counts = [
        round(fmean(run.initialization.num_trainable for run in cell.runs)) for cell in _cells(study, stage, a, b)
    ]
    found = higher_score(study, a, b, stage, task, margin)
    times = f"{counts[0]:,} against {counts[1]:,} trainable parameters, {counts[1] / counts[0]:.3g} times fewer"
    text = found.text if counts[0] < counts[1] else NO
    return replace(found, text=text, details=f"{found.details}; {times}")


KINDS: dict[str, Callable[..., Answer]] = {
    function.__name__: function
    for function in (higher_score, larger_rate, fewer_steps, rate_by_width, fewer_parameters)
}


def _one(groups: Sequence[tuple[str, ...]], wanted: Group, where: str) -> int:
    """Index of the group with the wanted overrides; those that no group of the study sets are ignored."""
    swept = {override.partition("=")[0] for group in groups for override in group}
    needed = {f"{key}={value}" for key, value in wanted.items() if key in swept}
    found = [index for index, group in enumerate(groups) if needed <= set(group)]
    text = " ".join(f"{key}={value}" for key, value in wanted.items())
    if not found:
        raise NotRunError(f"no completed run of {text} in {where}")
    if len(found) > 1:
        named = "; ".join(sorted(" ".join(groups[index]) for index in found))
        raise ReportError(f"{text} fits several groups of {where}: {named}; name what sets them apart")
    return found[0]


def _cells(study: Study, stage: str | None, *wanted: Group) -> list[Cell]:
    if stage is not None and stage not in study.stages:
        raise NotRunError(f"{study.name} has no stage {stage!r}; there are: {', '.join(study.stages)}")
    cells = study.cells if stage in (None, study.stage) else study.at(str(stage)).cells
    groups = [cell.group for cell in cells]
    return [cells[_one(groups, group, f"{study.name}, stage {stage or study.stage}")] for group in wanted]


def _selection(study: Study, wanted: Group) -> Selection:
    found = [selection for selection in study.selection if selection.best is not None]
    return found[_one([selection.group for selection in found], wanted, f"the selection of {study.name}")]


def _sample(cell: Cell, task: str | None) -> tuple[Sample, list[Column]]:
    """The mean over the datasets' first metrics, one value a seed, and the metrics."""
    scores = collect([cell])
    columns = [column for column in scores.first_metrics if task in (None, column.dataset)]
    sample = average(scores.found[0], columns) if columns else None
    if sample is None:
        raise NotRunError(f"{_name(cell)} has no score{f' of {task}' if task else ''} in every run")
    if len({column.higher_is_better for column in columns}) > 1:
        raise ReportError(f"{_name(cell)}: scores of both directions have no mean; name one task")
    return sample, columns


def _side(low: float | None, high: float | None, threshold: float) -> str:
    """YES if an interval is above a threshold, NO if below, NOT_SETTLED if it contains it."""
    if low is None or high is None:
        return NOT_SETTLED
    if low > threshold + ROUNDING:
        return YES
    return NO if high < threshold - ROUNDING else NOT_SETTLED


def _detectable(differences: Sequence[float], stderr: float | None) -> float:
    """The minimum detectable effect of a paired t test with as many seeds and such items (5 %, power 0.8)."""
    from statsmodels.stats.power import TTestPower

    n = len(differences)
    effect = TTestPower().solve_power(nobs=n, alpha=1 - CONFIDENCE, power=POWER)
    return float(effect) * math.hypot(stdev(differences), math.sqrt(n) * (stderr or 0.0))


def _by_seed(cell: Cell) -> dict[int, Curve]:
    """The loss curves of a cell by seed; runs without one are left out."""
    curves = read_curves([cell])
    seeds = {folder: run.config.seed for run, folder in zip(cell.runs, cell.folders, strict=True)}
    return {seeds[folder]: curve for folder, curve in curves.items()}


def _best(selection: Selection) -> float:
    assert selection.best is not None, "left out by _selection"
    return selection.best.learning_rate


def _rate(selection: Selection) -> str:
    edge = f", {selection.at_edge} edge of the grid" if selection.at_edge else ""
    return f"{_best(selection):g}{edge}"


def _step(selection: Selection) -> float:
    """The ratio of neighbours on the grid, the larger one beside the best rate."""
    rates = [point.learning_rate for point in selection.points]
    at = rates.index(_best(selection))
    ratios = [rates[i + 1] / rates[i] for i in (at - 1, at) if 0 <= i < len(rates) - 1]
    return max(ratios, default=1.0)


def _nearly_best(selection: Selection, within: float) -> list[float]:
    """The rates whose score is within so many per cent of the best, ascending."""
    means = {point.learning_rate: point.mean for point in selection.points if point.mean is not None}
    best = means[_best(selection)]
    return [rate for rate, mean in means.items() if abs(mean - best) <= abs(best) * within / 100 + ROUNDING]


def _name(cell: Cell) -> str:
    rank = next((override for override in cell.group if override.startswith("rank=")), "")
    return f"{cell.label} {rank.removeprefix('rank=')}".rstrip()


def _share(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return f"{found.mean:.0%}"
    return f"{found.mean:.0%} [{found.low:.0%}, {found.high:.0%}]"
