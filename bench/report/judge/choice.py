"""What the choice of a learning rate adds to the uncertainty of a tuned score (bench.study.search)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.report.judge.statistics import Part
from bench.runs.record import COMPLETED, Record
from bench.study.search import choice_variance, place_of
from bench.study.selection import select


def chosen_by(tried: Sequence[Record], dataset: str | None, metric: str) -> Part | None:
    """The variance of a score by the choice of the learning rate at which it was taken.

    Args:
        tried: the runs of a row's selection, at the best rate and its neighbours; they have the score as well, of the
            validation split.
        dataset, metric: name the score.

    Returns:
        With as many degrees of freedom as the seeds of the selection leave; None where the score is not among them, or
        each rate has one seed.
    """
    completed = [record for record in tried if record.status == COMPLETED]
    if not completed:
        return None
    found = select((), completed)
    scores: dict[int, list[float]] = {}
    for record in sorted(completed, key=lambda record: record.config.seed):
        of = [one.value for one in record.scores if (one.task or None, one.metric) == (dataset, metric)]
        if len(of) != 1 or of[0] is None or record.config.train.learning_rate is None:
            return None
        scores.setdefault(place_of(record.config.train.learning_rate), []).append(of[0])
    degrees = sum(len(values) - 1 for values in scores.values())
    variance = choice_variance(found.lowered, scores)
    return Part(variance, degrees) if degrees and math.isfinite(variance) and variance > 0 else None
