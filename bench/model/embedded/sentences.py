"""Single sentences of the language, right and wrong: the matter of glue_tiny, and, the right ones, of pretraining."""

from __future__ import annotations

import random
from dataclasses import dataclass

from bench.model.embedded.stories import draw_story
from bench.model.embedded.world import CREATURES, PEOPLE, THINGS, count

_ACTIONS = (
    ("eats", "eat", "food"),
    ("sees", "see", "thing"),
    ("takes", "take", "thing"),
    ("hides", "hide", "thing"),
    ("likes", "like", "food"),
)

# Share of the pairs in their usual form, in which one word decides; the others ask for two words at once. Adapters of
# a few numbers, LoRA-XS and LoRA-SB of rank 8, learn the usual form in 300 steps, LoRA and full fine-tuning both.
USUAL = 0.75


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


def draw_transfer(rng: random.Random) -> tuple[str, str]:
    """A gift told by its giver, then by its taker."""
    giver, taker, _ = rng.sample(PEOPLE, 3)  # as many as the corpus of the shipped checkpoints drew
    thing, _ = rng.sample(THINGS, 2)
    gift = count(rng.randint(2, 20), thing)
    return f"{giver} gives {gift} to {taker}.", f"{taker} gets {gift} from {giver}."


def draw_retold_gift(rng: random.Random) -> Pair:
    """A gift, and the same two people in the other order: they are giver and taker as before if the verb changes.

    In the usual form it is told by the giver first: the verb of the second sentence decides.
    """
    one, two = rng.sample(PEOPLE, 2)
    gift = count(rng.randint(2, 20), rng.choice(THINGS))
    gives, holds = rng.random() < USUAL, rng.random() < 0.5

    def told(subject: str, other: str, gives: bool) -> str:
        return f"{subject} gives {gift} to {other}." if gives else f"{subject} gets {gift} from {other}."

    return Pair(told(one, two, gives), told(two, one, gives != holds), holds)


def draw_comparison(rng: random.Random) -> tuple[str, str]:
    """Two people's quantities, then who has more or fewer."""
    one, two = rng.sample(PEOPLE, 2)
    thing = rng.choice(THINGS)
    few, many = sorted(rng.sample(range(2, 40), 2))
    amounts = {one: few, two: many}
    if rng.random() < 0.5:
        amounts = {one: many, two: few}
    subject, reference = rng.sample((one, two), 2)
    word = "more" if amounts[subject] > amounts[reference] else "fewer"
    first = f"{one} has {count(amounts[one], thing)} and {two} has {amounts[two]}."
    return first, f"{subject} has {word} than {reference}."


def draw_change(rng: random.Random) -> Pair:
    """A story of up to three events, and whether there are more things at its end, or fewer, than before.

    In the usual form the second sentence says more: the direction of the story decides.
    """
    story = draw_story(rng, 1, 3)
    while story.quantity == story.start:
        story = draw_story(rng, 1, 3)
    more = rng.random() < USUAL
    second = f"Now {story.person} has {'more' if more else 'fewer'} {story.things} than before."
    return Pair(story.told, second, more == (story.quantity > story.start))
