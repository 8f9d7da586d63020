"""Searches of learning rates replayed on records of all rates, budgets and seeds: does halving choose as the grid does?

`PYTHONPATH=tests python tests/replayed_searches.py` reads runs/halving_tiny. The suite's own search is asked for
each method under each seed, from a centre on the best rate and up to two places beside it, and given those records. Its
choice is right if its mean over the seeds, with all steps, is within one standard error of the best of all rates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from bench.process.places import RUNS
from bench.report.read.load import load_study
from bench.runs.record import Record
from bench.study.plan_file import SELECT
from bench.study.protocol import Rates
from bench.study.search import best_place, place_of, plateau, rate_at
from bench.study.selection import minimised
from bench.sweep.search import Search, Trial

STUDY = "halving_tiny"
CENTRES = range(-2, 3)
GRID = 9  # rates of the full grid that the steps are compared with
Key = tuple[int, int, int]  # steps, place, seed


def cases(records: Sequence[Record]) -> list[tuple[bool, float]]:
    """Of each centre and seed of one method: whether the choice is right, and its steps as a share of the grid's."""
    known = {_key(record): record for record in records}
    whole, seeds = max(steps for steps, _, _ in known), sorted({seed for _, _, seed in known})
    full = {place: [known[whole, place, seed] for seed in seeds] for place in {place for _, place, _ in known}}
    good = plateau({place: [minimised([record]) for record in runs] for place, runs in full.items()})
    best = best_place({place: minimised(runs) for place, runs in full.items()})
    found = []
    for off in CENTRES:
        for seed in seeds:
            search = Search(
                Rates("auto"), rate_at(best + off), lambda trial, s=seed: _read(known, trial, whole, seeds, s)
            )
            tried = {place_of(float(trial.rate)) for trial in search.trials if trial.stage == SELECT}
            taken = sum(_steps(trial, whole) * (len(seeds) if trial.stage == SELECT else 1) for trial in search.trials)
            right = search.complete and best_place({place: minimised(full[place]) for place in tried}) in good
            found.append((right, taken / (GRID * len(seeds) * whole)))
    return found


def _key(record: Record) -> Key:
    train = record.config.train
    return train.max_steps, place_of(train.learning_rate), record.config.seed


def _steps(trial: Trial, whole: int) -> int:
    return max(1, round(trial.share * whole))


def _read(
    known: Mapping[Key, Record], trial: Trial, whole: int, seeds: Sequence[int], seed: int
) -> list[Record] | None:
    """The records of a trial; None where one of them is outside of what was run."""
    asked = seeds if trial.stage == SELECT else [seed]
    found = [known.get((_steps(trial, whole), place_of(float(trial.rate)), one)) for one in asked]
    return None if None in found else [record for record in found if record is not None]


def main() -> None:
    """Prints the share of right choices and the steps, of each method and of all."""
    by_method: dict[str, list[Record]] = defaultdict(list)
    for _, record in load_study(RUNS, STUDY).members:
        by_method[record.config.method.name].append(record)
    every = []
    for method, records in by_method.items():
        found = cases(records)
        every += found
        _print(method, found)
    _print("all", every)


def _print(name: str, found: Sequence[tuple[bool, float]]) -> None:
    steps = fmean(share for _, share in found)
    right = sum(one for one, _ in found)
    print(f"{name:12} {right} of {len(found)}, {steps:.3f} of the steps of {GRID} rates under every seed")


if __name__ == "__main__":
    main()
