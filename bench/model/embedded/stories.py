"""Arithmetic stories: a person's things change in steps, each step one sentence and one equation.

A story is told in two ways. Pretraining tells it as prose, each event followed by its equation
(bench.model.embedded.corpus); gsm_tiny asks for its end first and wants the equations as the answer
(bench.model.embedded.items). All quantities stay in 1..99.
"""

from __future__ import annotations

import random
from collections.abc import Callable
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
    """A person, a thing, the opening quantity and what happens to it."""

    person: str
    thing: str
    opening: str
    events: tuple[Event, ...]

    @property
    def quantity(self) -> int:
        """How many things there are at the end."""
        return self.events[-1].quantity


def _gains(rng: random.Random, who: str, now: int) -> Event | None:
    more = rng.randint(1, 30)
    verb = rng.choice(("buys", "finds"))
    return Event(f"{who} {verb} {more} more.", f"{now} + {more} = {now + more}", now + more)


def _loses(rng: random.Random, who: str, now: int) -> Event | None:
    if now < 3:
        return None
    less = rng.randint(1, min(30, now - 1))
    verb = rng.choice(("loses", "sells"))
    return Event(f"{who} {verb} {less}.", f"{now} - {less} = {now - less}", now - less)


def _multiplies(rng: random.Random, who: str, now: int) -> Event | None:
    factor, word = rng.choice(((2, "twice"), (3, "three times")))
    return Event(f"Then {who.lower()} has {word} as many.", f"{now} * {factor} = {now * factor}", now * factor)


def _halves(rng: random.Random, who: str, now: int) -> Event | None:
    if now % 2 or now < 4:
        return None
    return Event(f"{who} gives away half of them.", f"{now} / 2 = {now // 2}", now // 2)


_EVENTS: tuple[Callable[[random.Random, str, int], Event | None], ...] = (_gains, _loses, _multiplies, _halves)


def _opening(rng: random.Random, person: str, thing: str) -> tuple[str, int, Event | None]:
    """Either a plain quantity, or boxes of things, whose total is the first equation."""
    if rng.random() < 0.3:
        boxes, each = rng.randint(2, 9), rng.randint(2, 9)
        box = rng.choice(CONTAINERS)
        sentence = f"{person} has {count(boxes, box)} of {count(each, thing)}."
        return sentence, boxes * each, Event("", f"{boxes} * {each} = {boxes * each}", boxes * each)
    start = rng.randint(2, 50)
    return f"{person} has {count(start, thing)}.", start, None


def draw_story(rng: random.Random, min_events: int, max_events: int) -> Story:
    """A story with `min_events` to `max_events` equations.

    Args:
        rng: the only source of randomness.
        min_events: at least this many equations, 1 or more.
        max_events: at most this many equations.
    """
    person, thing = rng.choice(PEOPLE), rng.choice(THINGS)
    num_events = rng.randint(min_events, max_events)
    opening, now, first = _opening(rng, person, thing)
    events = [first] if first else []
    who = pronoun(person)
    while len(events) < num_events:
        event = rng.choice(_EVENTS)(rng, who, now)
        if event and 1 <= event.quantity <= MAX_QUANTITY:
            events.append(event)
            now = event.quantity
    return Story(person, thing, opening, tuple(events))


def plural_of(story: Story) -> str:
    """The story's thing in the plural."""
    return plural(story.thing)
