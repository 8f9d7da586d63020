"""The comparisons of a table, as text and as numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from bench.report.judge.comparisons import Judged
from bench.report.judge.metrics import Scale
from bench.report.tables.render import DASH, MINUS, bold, interval_text, p_text

_CHANCE = Scale(factor=1.0, unit="", decimals=2)


def comparison_table(judged: Judged) -> pd.DataFrame:
    """The comparisons of the family, a row each; significant differences are marked with **."""
    return pd.DataFrame(
        {
            "methods": f"{judged.cells[one.first].title} {MINUS} {judged.cells[one.second].title}",
            "in": one.measured.heading,
            "difference": bold(
                [interval_text(one.difference, one.measured.of_differences)], 0 if one.is_significant else None
            )[0],
            "n": str(one.difference.n),
            "items": DASH if one.num_items is None else f"{one.num_items:,}",
            "p seeds": p_text(one.p_seeds),
            "p items": p_text(one.p_items),
            "p, Holm": p_text(one.p_holm),
            "p seeds, Dunnett": p_text(one.p_dunnett),
            "P(better)": interval_text(one.improvement, _CHANCE),
        }
        for one in judged.comparisons
        if one.in_family
    )


def comparison_numbers(judged: Judged, stage: str | None, place: tuple[str, str]) -> Iterable[dict[str, Any]]:
    """One dict a comparison, of the family or not, numbers unrounded; the rows of comparisons.csv."""
    for one in judged.comparisons:
        first, second = judged.cells[one.first], judged.cells[one.second]
        column = one.measured.column
        yield {
            "stage": stage,
            "task": place[0],
            "model": place[1],
            "first": first.title,
            "second": second.title,
            "first_method": first.method,
            "second_method": second.method,
            "dataset": column.dataset if column else "average",
            "metric": column.metric if column else "mean",
            "higher_is_better": one.measured.higher_is_better,
            "difference": one.difference.mean,
            "low": one.difference.low,
            "high": one.difference.high,
            "interval_over": one.difference.over,
            "n": one.difference.n,
            "paired_items": one.num_items,
            "p_seeds": one.p_seeds,
            "p_items": one.p_items,
            "p": one.p,
            "in_family": one.in_family,
            "p_holm": one.p_holm,
            "p_dunnett": one.p_dunnett,
            "is_significant": one.is_significant,
            "probability_of_improvement": one.improvement.mean,
            "probability_low": one.improvement.low,
            "probability_high": one.improvement.high,
        }
