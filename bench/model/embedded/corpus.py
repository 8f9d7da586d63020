"""The pretraining text: stories with their equations, facts, clauses, gifts, comparisons; no task format."""

from __future__ import annotations

import random
from collections.abc import Iterator

from bench.model.embedded.sentences import draw_clause, draw_comparison, draw_transfer
from bench.model.embedded.stories import draw_story
from bench.model.embedded.world import CREATURES, THINGS, Creature, count

LATE_SHARE = 0.25  # of stories tell all events before the first equation, as an answer to a question must
# Words of the task formats that must not be seen in pretraining; a test holds the corpus to it.
TASK_MARKERS = ("Question", "Answer", "####", "Sentence")


def told_story(rng: random.Random) -> str:
    """'Ann has 12 eggs. She buys 5 more. 12 + 5 = 17. Now Ann has 17 eggs.'

    In a quarter of the stories the equations come together, after the events.
    """
    story = draw_story(rng, 1, 3)
    sentences = [event.sentence for event in story.events]
    equations = [f"{event.equation}." for event in story.events]
    if rng.random() < LATE_SHARE:
        told = sentences + equations
    else:
        told = [text for pair in zip(sentences, equations, strict=True) for text in pair]
    return " ".join([story.opening, *filter(None, told), f"Now {story.person} has {story.quantity} {story.things}."])


def sums(rng: random.Random) -> str:
    """Bare equations, so that the arithmetic itself is well known before any task is met."""
    story = draw_story(rng, 3, 4)
    return " ".join(f"{event.equation}." for event in story.events)


def fact(rng: random.Random, creature: Creature | None = None) -> str:
    """One or two properties of a creature."""
    c = creature or rng.choice(CREATURES)
    sentences = [
        f"The {c.name} is a {c.kind}.",
        f"The {c.name} lives in the {c.home}.",
        f"The {c.name} eats {c.food}.",
        f"The {c.name} is {c.colour}.",
        f"In the {c.home} lives the {c.name}, a {c.colour} {c.kind}.",
        f"Many {c.name}s live in the {c.home} and eat {c.food}.",
    ]
    return " ".join(rng.sample(sentences, 2))


def restated(rng: random.Random) -> str:
    """A gift or a comparison, then what follows from it."""
    first, second = rng.choice((draw_transfer, draw_comparison))(rng)
    return f"{first} So {second}"


def shelf(rng: random.Random) -> str:
    """A short list; it makes the number sign, the colon and the line break known signs."""
    things = rng.sample(THINGS, rng.randint(1, 2))
    lines = [count(rng.randint(1, 60), thing) for thing in things]
    return "\n".join([f"Shelf #{rng.randint(1, 60)}:", *lines])


def documents(rng: random.Random) -> Iterator[str]:
    """An endless stream of short documents, one line each."""
    kinds = (told_story, sums, fact, restated, draw_clause, shelf)
    weights = (44, 15, 20, 11, 7, 3)
    while True:
        (draw,) = rng.choices(kinds, weights)
        yield draw(rng)
