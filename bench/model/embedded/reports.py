"""Short reports of several events, each with its one-line outcome: the matter of summary_tiny."""

from __future__ import annotations

import random
from dataclasses import dataclass

from bench.model.embedded.sentences import draw_clause
from bench.model.embedded.stories import draw_story
from bench.model.embedded.world import PEOPLE, THINGS, count

NUM_CLAUSES = 2  # sentences on creatures, of which the outcome says nothing


@dataclass(frozen=True)
class Report:
    """What happened, told in sentences, and the one line that sums it up."""

    told: str
    outcome: str


def draw_report(rng: random.Random) -> Report:
    """'Ann has 12 eggs. She buys 5 more.' and 'Ben gives 3 keys to Eva.' among sentences on creatures, in any order.

    The outcome is 'Ann ends with 17 eggs, and Eva gets 3 keys from Ben.': of its thirteen words six are the same in
    every outcome, six are to be found in the report, and one, the quantity at the end, is to be computed.
    """
    story = draw_story(rng, 1, 2)
    giver, taker = rng.sample([person for person in PEOPLE if person != story.person], 2)
    gift = count(rng.randint(2, 20), rng.choice(THINGS))
    parts = [story.told, f"{giver} gives {gift} to {taker}.", *(draw_clause(rng) for _ in range(NUM_CLAUSES))]
    rng.shuffle(parts)
    outcome = f"{story.person} ends with {count(story.quantity, story.thing)}, and {taker} gets {gift} from {giver}."
    return Report(" ".join(parts), outcome)
