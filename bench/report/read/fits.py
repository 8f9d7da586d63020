"""How many fits found each method's learning rate: a comparison is fair only where each search may have as many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

from bench.report.read.members import Member, ReportError
from bench.study.plan_file import SEARCH, SELECT, StudyPlan

Group = tuple[str, ...]


def unequal_fits(plan: StudyPlan | None, members: Collection[Member], groups: Collection[Group]) -> dict[Group, int]:
    """The fits of each row's search, a rate and budget each, over seeds once; empty where all rows have as many.

    Args:
        plan: the study's; None for single runs, for which no rates were searched.
        members: all of its runs.
        groups: of the rows.
    """
    if plan is None:
        return {}
    searched = (*plan.of(SEARCH), *plan.of(SELECT))
    known = {run.run_id: run.group for run in searched if run.run_id and run.group in groups}
    fits: dict[Group, set[tuple[int, float | None]]] = defaultdict(set)
    for _, record in members:
        if record.run_id in known:
            fits[known[record.run_id]].add((record.config.train.max_steps, record.config.train.learning_rate))
    counts = {group: len(of) for group, of in fits.items()}
    return counts if len(set(counts.values())) > 1 else {}


def refuse_unequal(
    folder: Path, plan: StudyPlan | None, members: Collection[Member], groups: Collection[Group]
) -> None:
    """Raises ReportError where two rows' searches differ in fits by more than the plan's reserve.

    A plan from before a reserve was stated is not refused; a line under the table says how many each row had.
    """
    counts = unequal_fits(plan, members, groups)
    if plan is None or plan.reserve is None or not counts:
        return
    if max(counts.values()) - min(counts.values()) > plan.reserve:
        raise ReportError(
            f"{folder} has searches of {fits_text(counts)} fits, more apart than its reserve of {plan.reserve}: "
            "run the study to the end of every search, or say --mix"
        )


def fits_text(counts: dict[Group, int]) -> str:
    """Each number of fits with its rows, as text."""
    by_number: dict[int, list[str]] = defaultdict(list)
    for group, number in sorted(counts.items()):
        by_number[number].append(" ".join(text.partition("=")[2] for text in group))
    return "; ".join(f"{number} ({', '.join(rows)})" for number, rows in sorted(by_number.items()))
