"""Searches of learning rates replayed on records of all rates, budgets and seeds: does halving choose as the grid does?

`PYTHONPATH=tests python tests/replayed_searches.py` reads results/halving_tiny. Each method is searched under each seed
from a centre on the best rate and up to two places beside it, as bench.sweep.search does. The choice is right if its
mean over the seeds, with all steps, is within one standard error of the best of all rates.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from bench.report.read.load import load_study
from bench.study import search

STUDY = "halving_tiny"
POINTS, RESERVE, CENTRES = 7, 2, range(-2, 3)
Losses = Mapping[int, Mapping[int, Mapping[int, float]]]  # of steps, place and seed


def losses(results_dir: Path) -> dict[str, Losses]:
    """The losses of each method; infinite where a run has none."""
    found: dict[str, dict[int, dict[int, dict[int, float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(dict))
    )
    for _, record in load_study(results_dir, STUDY).members:
        run = record.config
        values = [score.value for score in record.scores if score.metric == "loss" and score.value is not None]
        place = search.place_of(run.train.learning_rate)
        found[run.method.name][run.train.max_steps][place][run.seed] = fmean(values) if values else math.inf
    return found


def replayed(of: Losses, centre: int, seed: int) -> tuple[int, int]:
    """The place that a search chooses, and the steps that it takes."""
    *smaller, whole = sorted(of)
    taken, tried = 0, dict[int, float]()
    for number, steps in enumerate(smaller):
        places = search.survivors(tried) if number else search.next_places(tried, centre, POINTS)
        tried = {} if number else tried
        while places:
            tried |= {place: of[steps].get(place, {}).get(seed, math.inf) for place in places}
            taken += steps * len(places)
            places = [] if number else search.next_places(tried, centre, POINTS)
    places, means = search.finalists(tried), dict[int, float]()
    most = len(places) + RESERVE
    while places:
        means |= {place: mean(of[whole].get(place, {})) for place in places}
        taken += whole * len(places) * len(next(iter(of[whole].values())))
        further = search.beyond(means)
        places = [further] if further is not None and len(means) < most else []
    return search.best_place(means), taken


def mean(of: Mapping[int, float]) -> float:
    """Over seeds; infinite without any."""
    return fmean(of.values()) if of else math.inf


def is_as_good(of: Losses, place: int) -> bool:
    """Whether a place is within one standard error of the best of all, with all steps."""
    whole = of[max(of)]
    means = {at: mean(seeds) for at, seeds in whole.items()}
    best = search.best_place(means)
    return means.get(place, math.inf) <= means[best] + stdev(whole[best].values()) / math.sqrt(len(whole[best]))


def cases(of: Losses) -> list[tuple[bool, float]]:
    """Of each centre and seed: whether the choice is right, and its steps as a share of those of nine rates."""
    whole = max(of)
    best = search.best_place({place: mean(seeds) for place, seeds in of[whole].items()})
    seeds: Sequence[int] = sorted(next(iter(of[whole].values())))
    grid = 9 * len(seeds) * whole
    found = [replayed(of, best + off, seed) for off in CENTRES for seed in seeds]
    return [(is_as_good(of, place), taken / grid) for place, taken in found]


def main() -> None:
    """Prints the share of right choices and the steps, of each method and of all."""
    every = []
    for method, of in losses(Path("results")).items():
        found = cases(of)
        every += found
        print(f"{method:12} {sum(right for right, _ in found)} of {len(found)}, {_steps(found)}")
    print(f"{'all':12} {sum(right for right, _ in every)} of {len(every)}, {_steps(every)}")


def _steps(found: Sequence[tuple[bool, float]]) -> str:
    return f"{fmean(share for _, share in found):.3f} of the steps of nine rates under every seed"


if __name__ == "__main__":
    main()
