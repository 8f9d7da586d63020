"""The kinds of questions that can be asked of a study's records: pure functions of it and mostly two of its groups."""

from __future__ import annotations

from collections.abc import Callable

from bench.report.papers.answers import Answer
from bench.report.papers.curvature_question import best_rate_by_curvature
from bench.report.papers.order_question import same_order
from bench.report.papers.rate_questions import larger_rate, rate_by_width
from bench.report.papers.score_questions import Compared, as_high_score, fewer_parameters, higher_score
from bench.report.papers.step_questions import fewer_steps
from bench.report.papers.tiers_question import ranks_alike

KINDS: dict[str, Callable[..., Answer | Compared]] = {
    function.__name__: function
    for function in (
        higher_score,
        as_high_score,
        fewer_parameters,
        larger_rate,
        fewer_steps,
        same_order,
        rate_by_width,
        best_rate_by_curvature,
        ranks_alike,
    )
}
