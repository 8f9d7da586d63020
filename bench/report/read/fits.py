"""How many learning rates were tried for each method: a comparison is fair only where each search may try as many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

from bench.report.read.members import Member, ReportError
from bench.study.plan_file import SELECT, StudyPlan

Group = tuple[str, ...]


def unequal_fits(plan: StudyPlan | None, members: Collection[Member], groups: Collection[Group]) -> dict[Group, int]:
    """The rates that were tried for each row at the budget where most were; empty where all rows have as many.

    Args:
        plan: the study's; None for single runs, for which no rates were searched.
        members: all of its runs.
        groups: of the rows.
    """
    if plan is None:
        return {}
    known = {run.run_id: run.group for run in plan.of(SELECT) if run.run_id and run.group in groups}
    tried: dict[Group, dict[int, set[float]]] = defaultdict(lambda: defaultdict(set))
    for _, record in members:
        train = record.config.train
        if record.run_id in known and train.learning_rate is not None:
            tried[known[record.run_id]][train.max_steps].add(train.learning_rate)
    counts = {group: max(map(len, by_budget.values())) for group, by_budget in tried.items()}
    return counts if len(set(counts.values())) > 1 else {}


def refuse_unequal(
    folder: Path, plan: StudyPlan | None, members: Collection[Member], groups: Collection[Group]
) -> None:
    """Raises ReportError where two rows' numbers of rates differ by more than the plan's reserve.

    A plan from before a reserve was stated is not refused; a line under the table says how many rates each row had.
    """
    counts = unequal_fits(plan, members, groups)
    if plan is None or plan.reserve is None or not counts:
        return
    if max(counts.values()) - min(counts.values()) > plan.reserve:
        raise ReportError(
            f"{folder} chose learning rates among {fits_text(counts)}, more apart than its reserve of {plan.reserve}: "
            "run the study to the end of every search, or say --mix"
        )


def fits_text(counts: dict[Group, int]) -> str:
    """Each number of rates with its rows, as text."""
    by_number: dict[int, list[str]] = defaultdict(list)
    for group, number in sorted(counts.items()):
        by_number[number].append(" ".join(text.partition("=")[2] for text in group))
    return "; ".join(f"{number} ({', '.join(rows)})" for number, rows in sorted(by_number.items()))
