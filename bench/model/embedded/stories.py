"""Arithmetic stories: a person's things change in steps, each step one sentence and one equation.

A story is told in two ways. Pretraining tells it as prose, each event followed by its equation
(bench.model.embedded.corpus); gsm_tiny asks for its end first and wants the equations as the answer, entailment_tiny
asks whether there are more things at its end than before (bench.model.embedded.items). All quantities stay in 1..99.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from bench.model.embedded.world import CONTAINERS, PEOPLE, THINGS, count, plural, pronoun

MAX_QUANTITY = 99


@dataclass(frozen=True)
class Event:
    """One step of a story."""

    sentence: str
    equation: str
    quantity: int


@dataclass(frozen=True)
class Story:
    """A person, a thing, the opening quantity and what happens to it.

    Attributes:
        opening: the sentence that tells the quantity at the start.
        start: that quantity; of boxes of things the total, which is the first equation.
    """

    person: str
    thing: str
    opening: str
    start: int
    events: tuple[Event, ...]

    @property
    def told(self) -> str:
        """The opening and the events, without equations."""
        return " ".join([self.opening, *(event.sentence for event in self.events if event.sentence)])

    @property
    def quantity(self) -> int:
        """How many things there are at the end."""
        return self.events[-1].quantity

    @property
    def things(self) -> str:
        """The thing in the plural."""
        return plural(self.thing)


def _change(rng: random.Random, who: str, now: int) -> Event | None:
    """A gain, a loss, a multiple or a half; None if `now` does not allow the one that was drawn."""
    kind = rng.choice(("gain", "loss", "multiple", "half"))
    if kind == "gain":
        more, verb = rng.randint(1, 30), rng.choice(("buys", "finds"))
        return Event(f"{who} {verb} {more} more.", f"{now} + {more} = {now + more}", now + more)
    if kind == "loss" and now >= 3:
        less, verb = rng.randint(1, min(30, now - 1)), rng.choice(("loses", "sells"))
        return Event(f"{who} {verb} {less}.", f"{now} - {less} = {now - less}", now - less)
    if kind == "multiple":
        factor, word = rng.choice(((2, "twice"), (3, "three times")))
        return Event(f"Then {who.lower()} has {word} as many.", f"{now} * {factor} = {now * factor}", now * factor)
    if kind == "half" and now >= 4 and now % 2 == 0:
        return Event(f"{who} gives away half of them.", f"{now} / 2 = {now // 2}", now // 2)
    return None


def _opening(rng: random.Random, person: str, thing: str) -> tuple[str, int, Event | None]:
    # A plain quantity, or boxes of things, whose total is the first equation.
    if rng.random() < 0.3:
        boxes, each = rng.randint(2, 9), rng.randint(2, 9)
        box = rng.choice(CONTAINERS)
        sentence = f"{person} has {count(boxes, box)} of {count(each, thing)}."
        return sentence, boxes * each, Event("", f"{boxes} * {each} = {boxes * each}", boxes * each)
    start = rng.randint(2, 50)
    return f"{person} has {count(start, thing)}.", start, None


def draw_story(rng: random.Random, min_events: int, max_events: int) -> Story:
    """A story.

    Args:
        rng: the only source of randomness.
        min_events: at least this many equations, 1 or more.
        max_events: at most this many equations.
    """
    person, thing = rng.choice(PEOPLE), rng.choice(THINGS)
    num_events = rng.randint(min_events, max_events)
    opening, start, first = _opening(rng, person, thing)
    events, now = [first] if first else [], start
    who = pronoun(person)
    while len(events) < num_events:
        event = _change(rng, who, now)
        if event and 1 <= event.quantity <= MAX_QUANTITY:
            events.append(event)
            now = event.quantity
    return Story(person, thing, opening, start, tuple(events))
