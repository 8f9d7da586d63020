"""Best learning rates of a study beside the curvature at step 0: what bench.report's question and figure compare."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import geometric_mean

import yaml

from bench.report.read.load import Study
from bench.runs.record import Record
from bench.study.folders import CONF
from bench.study.selection import Selection

AUTO = "auto"  # in a run's identity: its learning rate followed from its curvature


@dataclass(frozen=True)
class RateAndCurvature:
    """One group of a search of learning rates.

    Attributes:
        rate: the best one, at the vertex of the parabola through it and its neighbours.
        plain, preconditioned: the largest eigenvalues at step 0.
    """

    selection: Selection
    rate: float
    plain: float
    preconditioned: float


@cache
def constant() -> float:
    """c of c / λ, as conf/train/default.yaml states it."""
    settings = yaml.safe_load((CONF / "train" / "default.yaml").read_text(encoding="utf-8"))
    return float(settings["curvature_constant"])


def rates_and_curvatures(study: Study, selections: Sequence[Selection]) -> list[RateAndCurvature]:
    """The groups whose best rate is inside of what was tried, and whose runs have positive eigenvalues.

    An eigenvalue is that of the runs with train.learning_rate=auto, else the geometric mean over all runs of the group:
    it depends on the rows of a seed, and of a method that builds its rate into the start on the rate.

    Args:
        study: with the records.
        selections: of this study.
    """
    groups = {run.run_id: run.group for run in study.plan.runs if run.run_id} if study.plan else {}
    by_group: dict[tuple[str, ...] | None, list[Record]] = defaultdict(list)
    for _, record in study.members:
        found = record.curvature
        if found and (found.plain or 0.0) > 0 and (found.preconditioned or 0.0) > 0:
            by_group[groups.get(record.run_id)].append(record)
    points = []
    for selection in selections:
        measured = by_group.get(selection.group, [])
        measured = [r for r in measured if r.identity.get("train", {}).get("learning_rate") == AUTO] or measured
        if measured and selection.vertex is not None and selection.at_edge is None:
            plain, scaled = (
                geometric_mean(getattr(record.curvature, name) for record in measured)
                for name in ("plain", "preconditioned")
            )
            points.append(RateAndCurvature(selection, selection.vertex, plain, scaled))
    return points
