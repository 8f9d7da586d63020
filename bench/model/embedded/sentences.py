"""Single sentences of the language, right and wrong: the matter of glue_tiny, and, the right ones, of pretraining."""

from __future__ import annotations

import random
from dataclasses import dataclass

from bench.model.embedded.world import CREATURES, PEOPLE, THINGS, count

_ACTIONS = (
    ("eats", "eat", "food"),
    ("sees", "see", "thing"),
    ("takes", "take", "thing"),
    ("hides", "hide", "thing"),
    ("likes", "like", "food"),
)


@dataclass(frozen=True)
class Pair:
    """Two sentences and whether the second follows from, or restates, the first."""

    first: str
    second: str
    holds: bool


def draw_clause(rng: random.Random, grammatical: bool = True) -> str:
    """'The bibo eats seeds.' or, with one fault, 'The bibo eat seeds.'; the faults are agreement, article, order."""
    creature = rng.choice(CREATURES)
    singular, bare, role = rng.choice(_ACTIONS)
    many = rng.random() < 0.5
    subject = ["The", creature.name + "s"] if many else [rng.choice(("The", "A")), creature.name]
    verb = [bare if many else singular]
    obj = [rng.choice(CREATURES).food] if role == "food" else ["the", rng.choice(THINGS)]
    if grammatical:
        words = [*subject, *verb, *obj]
    else:
        fault = rng.choice(("agreement", "article", "order"))
        if fault == "agreement":
            words = [*subject, singular if many else bare, *obj]
        elif fault == "article":
            words = [subject[1], subject[0].lower(), *verb, *obj]
        else:
            words = [*subject, *obj, *verb]
    sentence = " ".join(words) + "."
    return sentence[0].upper() + sentence[1:]


def draw_transfer(rng: random.Random, holds: bool | None = None) -> Pair:
    """A gift told from both sides; when it does not hold, the roles, the number or the thing differ."""
    giver, taker, other = rng.sample(PEOPLE, 3)
    thing, wrong_thing = rng.sample(THINGS, 2)
    number = rng.randint(2, 20)
    holds = rng.random() < 0.5 if holds is None else holds
    first = f"{giver} gives {count(number, thing)} to {taker}."
    if not holds:
        wrong = rng.choice(("roles", "person", "number", "thing"))
        if wrong == "roles":
            giver, taker = taker, giver
        elif wrong == "person":
            taker = other
        elif wrong == "number":
            number += rng.choice((-1, 1))
        else:
            thing = wrong_thing
    return Pair(first, f"{taker} gets {count(number, thing)} from {giver}.", holds)


def draw_comparison(rng: random.Random, holds: bool | None = None) -> Pair:
    """Two people's quantities, and who has more or fewer."""
    one, two = rng.sample(PEOPLE, 2)
    thing = rng.choice(THINGS)
    few, many = sorted(rng.sample(range(2, 40), 2))
    holds = rng.random() < 0.5 if holds is None else holds
    amounts = {one: few, two: many}
    if rng.random() < 0.5:
        amounts = {one: many, two: few}
    subject, reference = rng.sample((one, two), 2)
    more = amounts[subject] > amounts[reference]
    word = "more" if more == holds else "fewer"
    first = f"{one} has {count(amounts[one], thing)} and {two} has {amounts[two]}."
    return Pair(first, f"{subject} has {word} than {reference}.", holds)
