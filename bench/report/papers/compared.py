"""A question on scores before and after its correction for the others: what was compared, and the answer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from bench.report.judge.differences import Difference
from bench.report.judge.metrics import LOSS
from bench.report.judge.power import MOST_SEEDS, seeds_needed
from bench.report.judge.significance import ALPHA, TOST
from bench.report.judge.statistics import Estimate
from bench.report.papers.answers import EQUIVALENT, UNBOUNDED, UNDECIDED, Answer, side


@dataclass(frozen=True)
class Compared:
    """The two cells of a question, before it is corrected for the others.

    Attributes:
        tested: a's mean minus b's, positive where a is better; of a loss b's logarithm minus a's.
        other: the same of the other endpoint; None where no record has it.
        margin: within which the two are equivalent, in the unit of `tested`; of `other` other_margin.
        as_high: the question is whether a is at most so much worse, and not whether it is better.
        variances: over seeds, of a run of each of the two; of their difference where seeds are paired.
        said: the numbers behind the answer.
        runs: ids of their runs.
    """

    tested: Difference
    other: Difference | None
    scale: Printed
    margin: float
    other_margin: float
    as_high: bool
    variances: tuple[float, ...]
    said: tuple[str, ...]
    runs: frozenset[str]

    @property
    def p(self) -> float | None:
        """Two-sided, that the difference is the threshold of a yes; None with one seed."""
        return self._beyond.p if self.tested.n > 1 else None

    @property
    def _beyond(self) -> Difference:
        """What the difference is beyond the threshold of a yes."""
        return replace(self.tested, mean=self.tested.mean + self.as_high * self.margin)

    def answer(self, p_holm: float | None, alpha: float = ALPHA) -> Answer:
        """The answer.

        Args:
            p_holm: p after the correction for the other questions.
            alpha: the smallest level that the correction leaves, at which seeds are counted.
        """
        text, needed, why = self._decided(p_holm, alpha)
        found = self.tested.estimate(UNBOUNDED)
        numbers = self.scale.printed(found)
        details = "; ".join((*self.said, *([why] if why else [])))
        unit = self.scale.unit
        return Answer(text, details, *numbers, unit, self.tested.n, self.p, p_holm, needed, self.runs)

    def _decided(self, p_holm: float | None, alpha: float) -> tuple[str, int | None, str]:
        """The answer, the number of seeds that it takes, and why."""
        if self.tested.n < 2:
            return UNDECIDED, None, "one seed: an interval over items alone decides nothing"
        found = self._beyond.estimate(UNBOUNDED)
        text = side(found.low, found.high, 0.0)
        if text != UNDECIDED and p_holm is not None and p_holm < ALPHA:
            disagree = self.other is not None and (self.other.mean + self.as_high * self.other_margin) * found.mean < 0
            return (UNDECIDED, None, "score and loss disagree in sign") if disagree else (text, None, "")
        within = self.tested.estimate(UNBOUNDED, TOST)
        inside = -self.margin < (within.low or 0.0) and (within.high or 0.0) < self.margin
        if inside and not self.as_high:
            return EQUIVALENT, None, f"within {self.scale.margin_text(self.margin)}"
        return UNDECIDED, *self._needed(found.mean, alpha)

    def _needed(self, size: float, alpha: float) -> tuple[int | None, str]:
        """The seeds that find a difference of this size, in a sentence, too."""
        stderr = self.tested.stderr or 0.0
        needed = seeds_needed(size, self.variances, self.tested.chosen, stderr, alpha)
        if needed is not None:
            return needed, f"{needed:,} seeds would find a difference of this size"
        if seeds_needed(size, self.variances, (), 0.0, alpha) is None:
            return None, f"a difference of this size takes more than {MOST_SEEDS:,} seeds"
        forbids = "items" if seeds_needed(size, self.variances, (), stderr, alpha) is None else "chosen rates"
        return None, f"no number of seeds finds a difference of this size: the {forbids} forbid it"


@dataclass(frozen=True)
class Printed:
    """How a tested difference is printed.

    Attributes:
        by: the endpoint, "score" or "loss".
        factor: of a score, 100 for points.
    """

    by: str
    factor: float

    @property
    def unit(self) -> str:
        """Behind the printed number."""
        return "times the loss" if self.by == LOSS else "points" if self.factor > 1 else ""

    def printed(self, found: Estimate) -> tuple[float, float | None, float | None]:
        """Mean, low and high: of a loss a's divided by b's."""
        if self.by != LOSS:
            low, high = (None if end is None else self.factor * end for end in (found.low, found.high))
            return self.factor * found.mean, low, high
        low, high = (None if end is None else math.exp(-end) for end in (found.high, found.low))
        return math.exp(-found.mean), low, high

    def margin_text(self, margin: float) -> str:
        """A margin as the claims' file states it."""
        if self.by == LOSS:
            return f"{100 * math.expm1(margin):.3g} % of the loss"
        number = f"{self.factor * margin:.3g}"
        return f"{number} {'point' if number == '1' else 'points'}" if self.factor > 1 else number
