"""The search for a method's best learning rate: which rates are tried next, at which budget, and where the best lies.

Rates lie on a lattice of four a decade, 1, 1.8, 3.2, 5.6; a place is the number of a rate on it, 0 for a rate of 1. All
values are losses or, where higher is better, scores with their sign turned; a rate that failed has an infinite one.

1. At the first budget three rates are tried, half a decade apart around a centre; then, while the best one is the
   smallest or largest tried, the rate half a decade beyond; then its neighbours on the lattice, and with what is left
   of `points` the untried rates nearest to the best. Every method has the same number of fits.
2. At each further budget but the last the better half of the method's own rates goes on (successive halving, Jamieson
   and Talwalkar 2016, arXiv:1502.07943); each budget has its own schedule, and methods are never compared.
3. At the last budget the best rate and its two neighbours are run under several seeds, and while the best one is the
   smallest or largest of these, the next one beyond, up to `reserve` times.

The tuned rate is the vertex of the parabola through the best rate and its neighbours, in the logarithm of the rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray

PER_DECADE = 4
COARSE = 2  # places between the first rates: half a decade
MISSED = 0.25  # places by which a parabola may miss the lowest point of a lopsided curve
NUM_DRAWS = 2000  # of the seeds' noise, for the uncertainty of the choice
_SERIES = ("1", "1.8", "3.2", "5.6")

Values = Mapping[int, float]


def place_of(rate: float) -> int:
    """The place of the lattice nearest to a rate."""
    return round(PER_DECADE * math.log10(rate))


def rate_at(place: int) -> float:
    """The rate at a place, to two digits: 1, 1.8, 3.2, 5.6 in each decade."""
    decade, index = divmod(place, PER_DECADE)
    return float(f"{_SERIES[index]}e{decade}")


def next_places(tried: Values, centre: int, points: int) -> list[int]:
    """The places to be tried next at the first budget; none once `points` were tried.

    Args:
        tried: the value at each place that was tried.
        centre: the place around which the search begins.
        points: fits of every method at this budget, at least 3.
    """
    if first := [place for place in (centre - COARSE, centre, centre + COARSE) if place not in tried]:
        return first
    left = points - len(tried)
    if left <= 0:
        return []
    best, low, high = best_place(tried), min(tried), max(tried)
    if best in (low, high):
        return [best + (COARSE if best == high else -COARSE)]
    distance = next(d for d in count(1) if not {best - d, best + d} <= tried.keys())
    around = [place for place in (best - distance, best + distance) if place not in tried]
    below, above = max(place for place in tried if place < best), min(place for place in tried if place > best)
    return sorted(around, reverse=tried[above] < tried[below])[:left]  # of two sides the better one first


def survivors(tried: Values) -> list[int]:
    """The better half of the places that were tried, ascending; of an odd number the larger half."""
    ordered = sorted(tried, key=lambda place: (tried[place], place))
    return sorted(ordered[: math.ceil(len(ordered) / 2)])


def finalists(tried: Values) -> list[int]:
    """The best place and its two neighbours."""
    best = best_place(tried)
    return [best - 1, best, best + 1]


def beyond(tried: Values) -> int | None:
    """The place beyond the end at which the best one lies; None where it lies inside."""
    best = best_place(tried)
    if best == max(tried):
        return best + 1
    return best - 1 if best == min(tried) else None


def best_place(tried: Values) -> int:
    """The place of the lowest value, the smaller one of equal ones."""
    return min(sorted(tried), key=lambda place: tried[place])


def vertex(values: Values) -> float:
    """Where the parabola through the best place and its neighbours is lowest, in places.

    The best place itself where a neighbour is missing or failed. A vertex lies within half a place of the best one.
    """
    best = best_place(values)
    around = [values.get(place, math.inf) for place in (best - 1, best, best + 1)]
    return best + float(_lowest(np.array(around))) if all(map(math.isfinite, around)) else float(best)


def rate_of_vertex(place: float) -> float:
    """The learning rate at a vertex, to two digits."""
    return float(f"{10 ** (place / PER_DECADE):.2g}")


def plateau(values: Mapping[int, Sequence[float]]) -> list[int]:
    """The places whose mean is within one standard error of the best one's: the range of rates that do as well.

    Args:
        values: the value of each seed at each place; the standard error is that of the pooled spread over seeds.
    """
    means = {place: float(np.mean(of)) for place, of in values.items()}
    best = best_place(means)
    error = math.sqrt(_pooled_variance([*values.values()]) / len(values[best]))
    return [place for place in sorted(means) if means[place] <= means[best] + error]


def choice_variance(losses: Mapping[int, Sequence[float]], endpoint: Mapping[int, Sequence[float]]) -> float:
    """The mean squared change of an endpoint when the rate is chosen again, under other selection seeds and rates.

    The seeds' noise is drawn anew around the mean of each place, normal with the pooled spread over seeds; each draw
    has its own vertex, moved by up to MISSED places either way, at which the parabola through the endpoint's means is
    read (Efron and Tibshirani 1993, chapter 6: the parametric bootstrap).

    Args:
        losses: of the finalists, by which the rate was chosen: the value of each seed at each place.
        endpoint: another value of the same runs, such as the task's score.

    Returns:
        In the endpoint's unit, squared; NaN where no place has two seeds.
    """
    spread = _pooled_variance([*losses.values()])
    best = best_place({place: float(np.mean(of)) for place, of in losses.items()})
    places = [place for place in (best - 1, best, best + 1) if place in losses]
    means = np.array([np.mean(losses[place]) for place in places])
    ends = np.array([np.mean(endpoint[place]) for place in places])
    if not (math.isfinite(spread) and np.isfinite(means).all() and np.isfinite(ends).all()):
        return math.nan
    generator = np.random.default_rng(0)
    noise = generator.standard_normal((NUM_DRAWS, len(places)))
    drawn = means + noise * np.sqrt([spread / len(losses[place]) for place in places])
    if len(places) < 3:
        chosen = ends[drawn.argmin(axis=1)] - ends[means.argmin()]
        return float(np.mean(chosen**2))
    at = _lowest(drawn) + generator.uniform(-MISSED, MISSED, size=NUM_DRAWS)
    return float(np.mean((_read(ends, at) - _read(ends, _lowest(means))) ** 2))


def _lowest(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Where the parabola through three equidistant values, (..., 3), is lowest, -1 to 1; where concave: the lowest."""
    left, middle, right = np.moveaxis(values, -1, 0)
    bend = left - 2 * middle + right
    turned = np.divide(left - right, 2 * bend, out=np.zeros_like(bend), where=bend > 0)
    return np.where(bend > 0, np.clip(turned, -1, 1), values.argmin(axis=-1) - 1)


def _read(ends: NDArray[np.floating], at: NDArray[np.floating]) -> NDArray[np.floating]:
    """The parabola through three equidistant values at places from -1 to 1."""
    left, middle, right = ends
    return middle + (right - left) / 2 * at + (left - 2 * middle + right) / 2 * at**2


def _pooled_variance(values: Sequence[Sequence[float]]) -> float:
    """The variance over seeds, pooled over places with two seeds or more; NaN where there is none."""
    several = [np.asarray(of) for of in values if len(of) > 1]
    degrees = sum(len(of) - 1 for of in several)
    return sum(float(np.var(of)) * len(of) for of in several) / degrees if degrees else math.nan
