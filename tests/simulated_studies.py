"""Two arms of one method, each with its own search for a learning rate: how often are they called different?

`PYTHONPATH=tests python tests/simulated_studies.py` prints the share of 1,000 studies for each method and number of
seeds. The curves of accuracy and loss against learning rate are those of experiments/LOG.md (ten rates, two seeds, 100
steps). In every study the optimum of each arm lies somewhere else on the lattice of rates, the search begins off its
centre, smaller budgets have their optimum at larger rates, seeds scatter accuracy and loss together, and both arms
answer the same items, of which some are hard for both. The search, its choice and the test, which asks both the seeds
and the items, are those of the suite.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.stats import norm

from bench.report.judge.differences import difference
from bench.report.judge.scores import Sample
from bench.report.judge.statistics import Array
from bench.study import search
from bench.study.plan_file import ITEMS

RATES = (5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1, 5e-1)
CURVES = {  # exact match in %, loss in nats
    "full_ft": (
        (48.5, 84.7, 95.2, 91.0, 65.5, 2.8, 2.5, 0, 0, 0),
        (0.08, 0.03, 0.01, 0.02, 0.05, 0.42, 1.28, 2.24, 2.86, 3.06),
    ),
    "hu": (
        (0, 2.0, 19.0, 60.8, 81.2, 52.5, 0, 0, 0, 0),
        (1.83, 0.79, 0.24, 0.05, 0.02, 0.08, 2.49, 2.79, 2.86, 3.13),
    ),
    "reversed": (
        (1.0, 17.2, 68.0, 97.2, 92.0, 12.0, 0, 0, 0, 0),
        (0.84, 0.26, 0.05, 0.01, 0.02, 0.29, 2.09, 2.69, 2.98, 3.13),
    ),
    "lora_ga": (
        (85.5, 93.8, 97.5, 93.0, 36.8, 1.5, 0, 0, 0.2, 0),
        (0.03, 0.02, 0.01, 0.01, 0.12, 1.35, 2.24, 2.91, 3.05, 3.13),
    ),
}
ACCURACY_SD, LOG_LOSS_SD, CORRELATION = 6.0, 0.2, -0.88  # over seeds, of the audit of committed cells
ITEMS_SCORED, SHARED_DIFFICULTY = 1000, 0.5  # and the correlation of two runs' latent answers to one item
CENTRE_SD, LATTICE = 1.5, 2.0  # places by which the centre is off, and by which the optimum may be moved
POINTS, SEEDS, RESERVE = 7, 3, 2
BUDGETS = (1.0, 0.5)  # places by which the optimum of a quarter and of half of the steps lies higher


class Method:
    """True accuracy and log loss at a place of the lattice, 0 at the optimum; straight beyond the rates tried."""

    def __init__(self, name: str) -> None:
        places = search.PER_DECADE * np.log10(RATES)
        accuracy, loss = CURVES[name]
        fine = np.linspace(places[0], places[-1], 2000)
        log_loss = PchipInterpolator(places, np.log(loss))
        self.best = fine[log_loss(fine).argmin()]
        self.log_loss = _straight(log_loss, places[0], places[-1])
        found = _straight(PchipInterpolator(places, accuracy), places[0], places[-1])
        self.accuracy: Callable[[float], float] = lambda place: min(100.0, max(0.0, found(place)))


def _straight(curve: PchipInterpolator, low: float, high: float) -> Callable[[float], float]:
    slope = curve.derivative()
    return lambda place: float(
        curve(min(max(place, low), high)) + slope(low) * min(0, place - low) + slope(high) * max(0, place - high)
    )


def arm(method: Method, n: int, difficulty: Array, rng: np.random.Generator) -> dict[str, Sample]:
    """The samples of one arm: searched, chosen and run under n seeds.

    Args:
        difficulty: (num_items,), standard normal; what the answers of all runs to an item have in common.
    """
    moved = rng.uniform(-LATTICE, LATTICE)

    def run(place: float, budget: float = 0.0) -> tuple[float, float]:
        at, noise = place - moved - budget, rng.standard_normal(2)
        also = CORRELATION * noise[0] + math.sqrt(1 - CORRELATION**2) * noise[1]
        return float(method.accuracy(at) + ACCURACY_SD * noise[0]), float(method.log_loss(at) + LOG_LOSS_SD * also)

    centre, tried = round(method.best + moved + rng.normal(0, CENTRE_SD)), dict[int, float]()
    while places := search.next_places(tried, centre, POINTS):
        tried |= {place: run(place, BUDGETS[0])[1] for place in places}
    places = search.finalists({place: run(place, BUDGETS[1])[1] for place in search.survivors(tried)})
    runs: dict[int, list[tuple[float, float]]] = {}
    means: dict[int, float] = {}
    while places:
        runs |= {place: [run(place) for _ in range(SEEDS)] for place in places}
        means = {place: float(np.mean([loss for _, loss in of])) for place, of in runs.items()}
        further = search.beyond(means)
        places = [further] if further is not None and len(runs) < 3 + RESERVE else []
    rate = search.PER_DECADE * math.log10(search.rate_of_vertex(search.vertex(means)))
    scored = np.array([run(rate) for _ in range(n)])
    own = rng.standard_normal((len(difficulty), n))
    latent = math.sqrt(SHARED_DIFFICULTY) * difficulty[:, None] + math.sqrt(1 - SHARED_DIFFICULTY) * own
    right = 100.0 * (latent < norm.ppf(np.clip(scored[:, 0] / 100, 0, 1)))
    scored[:, 0] = right.mean(axis=0)
    errors = (right - scored[:, 0]) / len(difficulty)
    losses = {place: tuple(loss for _, loss in of) for place, of in runs.items()}
    degrees = sum(len(of) - 1 for of in runs.values())
    found = {}
    for column, name in enumerate(("accuracy", "log loss")):
        endpoint = {place: tuple(values[column] for values in of) for place, of in runs.items()}
        variance = search.choice_variance(losses, endpoint)
        items = {} if column else {"errors": errors, "items": ((len(difficulty), 0),)}
        found[name] = Sample(
            tuple(range(n)), scored[:, column], **({"errors": None, "items": ()} | items), stderr=None,
            choice_variance=variance, choice_degrees=degrees,
        )  # fmt: skip
    return found


def called_different(name: str, n: int, studies: int, rng: np.random.Generator) -> dict[str, float]:
    """The share of studies of two equal arms whose p-value is below 5 %, by endpoint."""
    method, counts = Method(name), {"accuracy": 0, "log loss": 0}
    for _ in range(studies):
        difficulty = rng.standard_normal(ITEMS_SCORED)
        one, other = (arm(method, n, difficulty, rng) for _ in "ab")
        for endpoint in counts:
            found = difference(one[endpoint], other[endpoint], ITEMS)
            counts[endpoint] += found is not None and (found.p or 1.0) < 0.05
    return {endpoint: count / studies for endpoint, count in counts.items()}


def main() -> None:
    """Prints the table."""
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"two arms of one method, called different in % of {studies} studies")
    for name in CURVES:
        for n in (3, 5, 10):
            found = called_different(name, n, studies, np.random.default_rng(n))
            print(f"{name:8} n {n:2}:", ", ".join(f"{what} {100 * share:.1f}" for what, share in found.items()))


if __name__ == "__main__":
    main()
