"""Scoring of STS-B: correlations of generated numbers with the gold scores."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
NO_NUMBER = -1.0  # what T5's evaluation takes an answer for that is no number
Pair = tuple[float, float]


def process_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, Pair]:
    """The gold score, not rounded, and the first number of the answer, for each metric."""
    pair = (float(doc["label"]), parse(results[0]))
    return {"pearson": pair, "spearman": pair}


def parse(answer: str) -> float:
    """The first number of a text; -1 where there is none."""
    found = NUMBER.search(answer)
    number = float(found.group()) if found else NO_NUMBER
    return number if math.isfinite(number) else NO_NUMBER


def pearson(pairs: Sequence[Pair]) -> float:
    """Pearson's correlation of gold and predicted scores; 0 where one of them is constant."""
    from scipy.stats import pearsonr

    return _correlation(pairs, pearsonr)


def spearman(pairs: Sequence[Pair]) -> float:
    """Spearman's correlation of gold and predicted scores; 0 where one of them is constant."""
    from scipy.stats import spearmanr

    return _correlation(pairs, spearmanr)


def _correlation(pairs: Sequence[Pair], correlate: Callable[..., Any]) -> float:
    gold, predicted = zip(*pairs, strict=True)
    if len(set(gold)) == 1 or len(set(predicted)) == 1:
        return 0.0
    return float(correlate(gold, predicted).statistic)
