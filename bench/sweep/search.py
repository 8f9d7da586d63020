"""The search of one row's learning rate, replayed from its records: what was tried, what is due, what may follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.runs.record import Record
from bench.study.plan_file import SEARCH, SELECT
from bench.study.protocol import AUTO, Rates
from bench.study.search import beyond, finalists, next_places, place_of, rate_at, survivors
from bench.study.selection import minimised

_SOMEWHERE = 1e-2  # where the plan of a search begins whose centre is not known yet


@dataclass(frozen=True)
class Trial:
    """One learning rate at one budget.

    Attributes:
        stage: search or select.
        rate: `auto` for the run that finds the centre.
        share: of the full budget of steps.
        guessed: it is not due, and the rate only what it might be.
    """

    stage: str
    rate: float | str
    share: float
    guessed: bool = False


Read = Callable[[Trial], list[Record] | None]  # the records of a trial, one a seed; None as long as one is missing


@dataclass
class Search:
    """The trials of one row, in order, up to those that are due, and guesses of what follows them.

    Args:
        rates: the rule.
        centre: the rate around which the search begins; None: the run of train.learning_rate=auto has it.
        read: reads records.

    Attributes:
        complete: whether every trial has its records, and the rate can be chosen.
    """

    rates: Rates
    centre: float | None
    read: Read
    trials: list[Trial] = field(default_factory=list)
    complete: bool = False

    def __post_init__(self) -> None:
        tried: dict[int, float] = {}
        centre = place_of(_SOMEWHERE if self.centre is None else self.centre)
        if self.centre is None:  # the run that finds it is the first fit
            first = Trial(SEARCH, AUTO, self.rates.budgets[0])
            self.trials.append(first)
            if not (records := self.read(first)):
                return self._guess(centre, 0)
            centre = place_of(records[0].config.train.learning_rate or _SOMEWHERE)
            tried[centre] = minimised(records)
        for number, share in enumerate(self.rates.budgets[:-1]):
            places = survivors(tried) if number else next_places(tried, centre, self.rates.points)
            tried = {} if number else tried
            while places:
                if not self._tried(SEARCH, places, share, tried):
                    return self._guess(centre, number)
                places = [] if number else next_places(tried, centre, self.rates.points)
        places = finalists(tried) if tried else next_places({}, centre, self.rates.points)
        tried, most = {}, len(places) + self.rates.reserve
        while places:
            if not self._tried(SELECT, places, 1.0, tried):
                return None
            further = beyond(tried)
            places = [further] if further is not None and len(tried) < most else []
        self.complete = True
        return None

    def _tried(self, stage: str, places: Sequence[int], share: float, tried: dict[int, float]) -> bool:
        """Adds the values of places to those tried; False if one has no record yet."""
        trials = {place: Trial(stage, rate_at(place), share) for place in places}
        self.trials += trials.values()
        records = {place: self.read(trial) for place, trial in trials.items()}
        tried |= {place: minimised(found) for place, found in records.items() if found}
        return all(records.values())

    def _guess(self, centre: int, budget: int) -> None:
        """Adds as many trials as will follow, at rates around the centre, so that a plan counts them."""
        known = {(trial.stage, trial.rate, trial.share) for trial in self.trials}
        near = sorted(range(centre - 50, centre + 51), key=lambda place: abs(place - centre))
        left = self.rates.points
        for number, share in enumerate(self.rates.budgets[:-1]):
            if number >= budget:
                missing = left - sum(of == share for _, _, of in known)
                free = [at for at in near if (SEARCH, rate_at(at), share) not in known]
                self.trials += [Trial(SEARCH, rate_at(at), share, guessed=True) for at in free[: max(0, missing)]]
            left = (left + 1) // 2
        self.trials += [Trial(SELECT, rate_at(at), 1.0, guessed=True) for at in near[:3]]
