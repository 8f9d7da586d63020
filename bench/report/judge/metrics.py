"""What each metric can be and how it is printed: the one table that intervals, tables and figures go by."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bench.runs.record import LOSS
from bench.study.selection import EVAL_LOSS

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Scale:
    """The bounds of a metric, and its form in print.

    Attributes:
        low, high: what it can be; an interval does not exceed it.
        factor: a printed number is the value times this.
        unit: printed in the heading, "" for none.
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


SHARE = Scale()
CORRELATION = Scale(low=-1.0)
PERPLEXITY = Scale(high=math.inf, factor=1.0, unit="", decimals=2)
NATS_OR_BITS = Scale(high=math.inf, factor=1.0, unit="", decimals=3)
FORGETTING = Scale(low=-math.inf, high=math.inf, factor=1.0, unit="", decimals=3)  # nats a token
METRICS = {
    "mcc": CORRELATION,
    "pearson": CORRELATION,
    "spearman": CORRELATION,
    "perplexity": PERPLEXITY,
    "word_perplexity": PERPLEXITY,
    "byte_perplexity": PERPLEXITY,
    "bits_per_byte": NATS_OR_BITS,
    EVAL_LOSS: NATS_OR_BITS,
    LOSS: NATS_OR_BITS,
}


def base_name(metric: str) -> str:
    """The metric without lm-eval's filter, which follows a comma."""
    return metric.partition(",")[0]


def scale_of(metric: str) -> Scale:
    """Of a metric with or without a filter; one that METRICS does not name is a share of items."""
    return METRICS.get(base_name(metric), SHARE)


@dataclass(frozen=True)
class OfItems:
    """A metric as a function of sums over items, so that items can be resampled by weighting them.

    Attributes:
        items: one row an item, the summands; (num_items, num_sums).
        value: from sums, the last dimension, to the metric.
        is_ratio: whether it is the first sum over the second, such as a mean over items or over their tokens.
    """

    items: Array
    value: Callable[[Array], Array]
    is_ratio: bool = False

    @property
    def whole(self) -> float:
        """The metric of all items, each taken once."""
        return float(self.value(self.items.sum(axis=0)))


def of_items(metric: str, values: Array) -> OfItems | None:
    """How a metric comes from what outcomes.jsonl.gz holds of each item; None for one that is not known.

    Args:
        values: (num_items,) a number an item, or (num_items, 2) a pair: gold and prediction, log-likelihood and
            number of words or bytes, or loss and number of label tokens.
    """
    name = base_name(metric)
    if values.ndim == 1:
        items = np.column_stack([values, np.ones(len(values))])
        value: Callable[[Array], Array] = _perplexity if name == "perplexity" else _ratio
        return OfItems(items, value, value is _ratio)
    if name in _OF_PAIRS:
        summands, of_pairs = _OF_PAIRS[name]
        return OfItems(summands(values), of_pairs, of_pairs is _ratio)
    return None


def _divided(above: Array, below: Array) -> Array:
    """0 where nothing can be divided by, as scikit-learn has it."""
    return np.divide(above, below, out=np.zeros_like(above, dtype=float), where=below != 0)


def _ratio(sums: Array) -> Array:
    return sums[..., 0] / sums[..., 1]


def _perplexity(sums: Array) -> Array:
    return np.exp(-_ratio(sums))


def _bits(sums: Array) -> Array:
    return -_ratio(sums) / math.log(2)


def _of_class_1(pairs: Array) -> Array:
    """Found, and either wanted or answered."""
    ones = pairs == 1
    return np.column_stack([ones.all(axis=1), ones.any(axis=1)]).astype(float)


def _f1(sums: Array) -> Array:
    return _divided(2 * sums[..., 0], sums[..., 0] + sums[..., 1])


def _moments(pairs: Array) -> Array:
    x, y = (pairs - pairs.mean(axis=0)).T
    return np.column_stack([x, y, x * x, y * y, x * y, np.ones(len(x))])


def _rank_moments(pairs: Array) -> Array:
    """Ranks are taken once: an item drawn twice does not change those of the others."""
    return _moments(stats.rankdata(pairs, axis=0))


def _pearson(sums: Array) -> Array:
    x, y, xx, yy, xy = (sums[..., place] / sums[..., 5] for place in range(5))
    return _divided(xy - x * y, np.sqrt(np.maximum((xx - x * x) * (yy - y * y), 0.0)))


def _confusion(pairs: Array) -> Array:
    """The cell of the table of wanted and answered classes that each item is in."""
    classes = np.unique(pairs)
    wanted, answered = (pairs[:, side, None] == classes for side in (0, 1))
    return (wanted[:, :, None] & answered[:, None, :]).reshape(len(pairs), -1).astype(float)


def _matthews(sums: Array) -> Array:
    """Of any number of classes (Gorodkin 2004, https://doi.org/10.1016/j.compbiolchem.2004.09.006)."""
    side = math.isqrt(sums.shape[-1])
    table = sums.reshape(*sums.shape[:-1], side, side)
    gold, predicted = table.sum(-1), table.sum(-2)
    right, num = np.trace(table, axis1=-2, axis2=-1), table.sum((-2, -1))
    spread = (num**2 - (gold**2).sum(-1)) * (num**2 - (predicted**2).sum(-1))
    return _divided(right * num - (gold * predicted).sum(-1), np.sqrt(spread))


_OF_PAIRS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "f1": (_of_class_1, _f1),
    "mcc": (_confusion, _matthews),
    "pearson": (_moments, _pearson),
    "spearman": (_rank_moments, _pearson),
    "word_perplexity": (np.asarray, _perplexity),
    "byte_perplexity": (np.asarray, _perplexity),
    "bits_per_byte": (np.asarray, _bits),
    LOSS: (np.asarray, _ratio),
}
