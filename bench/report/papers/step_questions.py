"""How many steps does one method need for another's final loss?

Training is compared that has ended: runs of the method at several budgets (train.max_steps, an axis of the study), each
with its own decay of the learning rate. A loss read in the middle of a longer run is one under a rate that is still
high, so that without budgets the curves are described and nothing is decided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean

import numpy as np

from bench.report.judge.statistics import Array, Estimate, estimate
from bench.report.papers.answers import (
    NO,
    UNBOUNDED,
    UNDECIDED,
    YES,
    Answer,
    Group,
    NotRunError,
    all_groups,
    cells_of,
    name_of,
    one_group,
    run_ids,
    side,
    stage_cells,
)
from bench.report.papers.rate_questions import NUM_DRAWS, ends
from bench.report.read.curves import Curve, reach, read_curves
from bench.report.read.load import Cell, ReportError, Study

BUDGET = "train.max_steps"


def fewer_steps(study: Study, a: Group, b: Group, stage: str | None = None) -> Answer:
    """In what share of b's steps does a reach b's final eval loss, each at its own learning rate?

    With budgets it is the smallest budget at which a's final loss is at most b's at its largest one, interpolated in
    the logarithms of budget and loss, divided by that one. The means over seeds of the log loss are drawn anew with the
    noise of Student's t; a loss that no budget reaches counts as more than the largest.
    """
    cells = stage_cells(study, stage)
    groups = [cell.group for cell in cells]
    ours = {_budget(cells[place]): cells[place] for place in all_groups(groups, a)}
    theirs = {_budget(cells[place]): cells[place] for place in all_groups(groups, b)}
    if len(ours) < 2 or not theirs:
        return _by_curves(*cells_of(study, stage, a, b))
    full = max(theirs)
    if (number := len(all_groups(groups, a))) > len(ours):
        raise ReportError(f"{number} groups of {study.name} at {len(ours)} budgets; name what sets them apart")
    reference = theirs[full]
    one_group(groups, {**b, BUDGET: str(full)}, study.name)
    used = [reference, *(ours[budget] for budget in sorted(ours))]
    losses = [_final_losses(cell) for cell in used]
    n = min(map(len, losses))
    budgets = np.log([budget / full for budget in sorted(ours)])
    found = float(np.exp(_reached(budgets, np.array([[of.mean() for of in losses]]))[0]))
    reached = f"{found:.0%} of its steps" if math.isfinite(found) else f"more than {math.exp(budgets[-1]):.0%}"
    shown = ", ".join(f"{b:,}: {np.exp(of.mean()):.3g}" for b, of in zip(sorted(ours), losses[1:], strict=True))
    details = (
        f"{name_of(used[1])} reaches the final eval loss of {name_of(reference)}, {np.exp(losses[0].mean()):.3g} at "
        f"{full:,} steps, after {reached}; its own by budget {shown}"
    )
    value = found if math.isfinite(found) else None
    if n < 2:
        return Answer(UNDECIDED, f"{details}; one seed", value, None, None, "of the steps", n, runs=run_ids(*used))
    low, high = (math.exp(end) for end in ends([_reached(budgets, _draws(losses))]))
    text = {YES: NO, NO: YES}.get(answer := side(low, high, 1.0), answer)
    return Answer(text, details, value, low, high, "of the steps", n, runs=run_ids(*used))


def _reached(budgets: Array, losses: Array) -> Array:
    """The logarithm of the budget, as a share, at which a loss is reached; infinite where none does.

    Args:
        budgets: logarithms, ascending, (num_budgets,).
        losses: first the loss to reach, then that of each budget, (num_draws, 1 + num_budgets).
    """
    excess = losses[:, 1:] - losses[:, :1]
    below = excess <= 0
    first = np.where(below.any(axis=1), below.argmax(axis=1), len(budgets))
    found = np.full(len(losses), math.inf)
    found[first == 0] = budgets[0]  # it or less
    for place in range(1, len(budgets)):
        here = first == place
        before, at = excess[here, place - 1], excess[here, place]
        found[here] = budgets[place - 1] + (budgets[place] - budgets[place - 1]) * before / (before - at)
    return found


def _draws(losses: list[Array]) -> Array:
    """Means of log losses under other seeds, (NUM_DRAWS, num_cells)."""
    generator = np.random.default_rng(0)
    drawn = [
        of.mean() + of.std(ddof=1) / math.sqrt(len(of)) * generator.standard_t(len(of) - 1, size=NUM_DRAWS)
        for of in losses
    ]
    return np.column_stack(drawn)


def _final_losses(cell: Cell) -> Array:
    losses = [run.eval_loss for run in cell.runs if run.eval_loss is not None and 0 < run.eval_loss < math.inf]
    if not losses:
        raise NotRunError(f"{name_of(cell)} has no eval loss")
    return np.log(np.array(losses))


def _budget(cell: Cell) -> int:
    return cell.runs[0].config.train.max_steps


def _by_curves(of_a: Cell, of_b: Cell) -> Answer:
    """What the loss curves show: measured every few steps, linear between two measurements, bound to their schedule."""
    ours, theirs = _by_seed(of_a), _by_seed(of_b)
    aims = {seed: theirs[seed].final_eval_loss for seed in sorted(ours.keys() & theirs.keys())}
    aims = {seed: aim for seed, aim in aims.items() if math.isfinite(aim) and len(ours[seed].evaluated)}
    if not aims:
        raise NotRunError(f"{name_of(of_a)} and {name_of(of_b)} have no curve of the eval loss under one seed")
    asked = len(aims)
    reached = {seed: at for seed, aim in aims.items() if (at := reach(ours[seed], aim))}
    steps = [at.step / theirs[seed].last("step") for seed, at in reached.items()]
    seconds = [at.seconds / theirs[seed].last("seconds") for seed, at in reached.items()]
    target, runs = f"the final eval loss of {name_of(of_b)}", run_ids(of_a, of_b)
    bound = "; within one schedule, which decides nothing"
    if len(steps) < asked:
        details = f"{name_of(of_a)} does not reach {target} in {asked - len(steps)} of {asked} seeds"
        details += f"; where it does, after {fmean(steps):.0%} of its steps" if steps else ""
        return Answer(UNDECIDED, details + bound, None, None, None, "of the steps", asked, runs=runs)
    found, clock = estimate(steps, None, UNBOUNDED), estimate(seconds, None, UNBOUNDED)
    details = f"{name_of(of_a)} reaches {target} after {_share(found)} of its steps"
    details += f" and {_share(clock)} of its seconds, initialisation included{bound}"
    return Answer(UNDECIDED, details, found.mean, found.low, found.high, "of the steps", found.n, runs=runs)


def _by_seed(cell: Cell) -> Mapping[int, Curve]:
    """The loss curves of a cell by seed; runs without one are left out."""
    curves = read_curves([cell])
    seeds = {folder: run.config.seed for run, folder in zip(cell.runs, cell.folders, strict=True)}
    return {seeds[folder]: curve for folder, curve in curves.items()}


def _share(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return f"{found.mean:.0%}"
    return f"{found.mean:.0%} [{found.low:.0%}, {found.high:.0%}]"
