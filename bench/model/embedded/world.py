"""The world that the generated language speaks of: people, things, and creatures with fixed properties.

Everything here is a constant or a function of a fixed seed, so that the facts stated in pretraining are the
facts asked for by the tasks.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

WORLD_SEED = 20260101

PEOPLE = tuple("Ann Ben Cara Dan Eva Finn Gina Hugo Iris Jack Kim Leo Mia Ned Olga Paul".split())
SHE = frozenset("Ann Cara Eva Gina Iris Kim Mia Olga".split())
THINGS = tuple("apple book coin egg flag hat key lamp nut pen ring shell stone toy cup card".split())
CONTAINERS = tuple("box bag basket jar".split())

KINDS = tuple("bird fish insect lizard".split())
HOMES = tuple("cave forest lake meadow river swamp".split())
FOODS = tuple("grass leaves moss roots seeds worms".split())
COLOURS = tuple("black blue brown green red white".split())

_ONSETS = tuple("b d f g k l m n p r s t v z".split())
_RIMES = tuple("ab ag an eb ek el ib im ot ug".split())
_ENDINGS = tuple("o a u".split())
NUM_CREATURES = 96


@dataclass(frozen=True)
class Creature:
    """An invented animal; the four properties are what commonsense_tiny asks about."""

    name: str
    kind: str
    home: str
    food: str
    colour: str


def _creatures() -> tuple[Creature, ...]:
    rng = random.Random(WORLD_SEED)
    names = [onset + rime + ending for onset in _ONSETS for rime in _RIMES for ending in _ENDINGS]
    return tuple(
        Creature(name, rng.choice(KINDS), rng.choice(HOMES), rng.choice(FOODS), rng.choice(COLOURS))
        for name in rng.sample(names, NUM_CREATURES)
    )


CREATURES = _creatures()


def plural(thing: str) -> str:
    """'box' -> 'boxes', 'egg' -> 'eggs'."""
    return thing + ("es" if thing.endswith("x") else "s")


def count(number: int, thing: str) -> str:
    """A number with its noun: '1 egg', '3 eggs'."""
    return f"{number} {thing if number == 1 else plural(thing)}"


def pronoun(person: str) -> str:
    """'She' or 'He', at the start of a sentence."""
    return "She" if person in SHE else "He"
