"""What each metric can be and how it is printed: the one table that intervals, tables and figures go by."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """The bounds of a metric, and its form in print.

    Attributes:
        low, high: what it can be; an interval is not drawn beyond it.
        factor: a printed number is the value times this.
        unit: stands in the heading, "" for none.
        decimals: of a printed number.
    """

    low: float = 0.0
    high: float = 1.0
    factor: float = 100.0
    unit: str = "%"
    decimals: int = 1

    def text(self, value: float) -> str:
        """The value as the tables print it, without the unit."""
        return f"{self.factor * value:,.{self.decimals}f}"


HELD_OUT_LOSS = "held_out_loss"
SHARE = Scale()
CORRELATION = Scale(low=-1.0)
PERPLEXITY = Scale(high=math.inf, factor=1.0, unit="", decimals=2)
NATS_OR_BITS = Scale(high=math.inf, factor=1.0, unit="", decimals=3)
METRICS = {
    "mcc": CORRELATION,
    "pearson": CORRELATION,
    "spearman": CORRELATION,
    "perplexity": PERPLEXITY,
    "word_perplexity": PERPLEXITY,
    "byte_perplexity": PERPLEXITY,
    "bits_per_byte": NATS_OR_BITS,
    HELD_OUT_LOSS: NATS_OR_BITS,
}


def base_name(metric: str) -> str:
    """The metric without lm-eval's filter, which follows a comma."""
    return metric.partition(",")[0]


def scale_of(metric: str) -> Scale:
    """Of a metric with or without a filter; one that METRICS does not name is a share of items."""
    return METRICS.get(base_name(metric), SHARE)
