"""The items of the embedded tasks, in disjoint train, validation and test splits fixed by one seed.

Fields carry the names of the public datasets they stand for: question and answer (GSM8K), question, choices and
label (commonsense), sentence or sentence1, sentence2 and label (GLUE), document and summary (XSum). An item of
commonsense_tiny also names its fact, which is asked for in two wordings: its two items are not independent.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable
from typing import Any

from bench.model.embedded import image_items
from bench.model.embedded.reports import draw_report
from bench.model.embedded.sentences import Pair, draw_change, draw_clause, draw_retold_gift
from bench.model.embedded.stories import draw_story
from bench.model.embedded.world import COLOURS, CREATURES, FOODS, HOMES, KINDS

ITEM_SEED = 20260102
SPLITS = {"train": 4000, "validation": 2000, "test": 1000}  # of commonsense_tiny:
FACTS = {"train": 174, "validation": 60, "test": 150}
Item = dict[str, Any]

_PROPERTIES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("kind", KINDS, ("What is the {}?", "Of what kind is the {}?")),
    ("home", HOMES, ("Where does the {} live?", "What is the home of the {}?")),
    ("food", FOODS, ("What does the {} eat?", "What is the food of the {}?")),
    ("colour", COLOURS, ("Which colour has the {}?", "How does the {} look?")),
)
NUM_CHOICES = 4


def _gsm(rng: random.Random) -> Item:
    story = draw_story(rng, 2, 4)
    question = f"{story.told} How many {story.things} does {story.person} have now?"
    steps = "\n".join(event.equation for event in story.events)
    return {"question": question, "answer": f"{steps}\n#### {story.quantity}"}


def _acceptability(rng: random.Random) -> Item:
    grammatical = rng.random() < 0.5
    return {"sentence": draw_clause(rng, grammatical), "label": int(grammatical)}


def _labelled(pair: Pair) -> Item:
    return {"sentence1": pair.first, "sentence2": pair.second, "label": int(pair.holds)}


def _summary(rng: random.Random) -> Item:
    report = draw_report(rng)
    return {"document": report.told, "summary": report.outcome}


_DRAWN: dict[str, Callable[[random.Random], Item]] = {
    "gsm_tiny": _gsm,
    "acceptability_tiny": _acceptability,
    "paraphrase_tiny": lambda rng: _labelled(draw_retold_gift(rng)),
    "entailment_tiny": lambda rng: _labelled(draw_change(rng)),
    "summary_tiny": _summary,
}


NAMES = (*_DRAWN, "commonsense_tiny", *image_items.NAMES)


def _drawn_splits(name: str) -> dict[str, list[Item]]:
    """Items drawn one after another; one whose text was drawn before is drawn again, so that no two are equal."""
    rng, seen = random.Random(f"{ITEM_SEED}/{name}"), set()
    splits: dict[str, list[Item]] = {}
    for split, size in reversed(SPLITS.items()):  # test first: its items do not depend on the size of train
        items: list[Item] = []
        while len(items) < size:
            item = _DRAWN[name](rng)
            key = tuple(str(item[field]) for field in item if field not in ("label", "answer", "summary"))
            if key not in seen:
                seen.add(key)
                items.append(item)
        splits[split] = items
    return splits


def _commonsense_splits() -> dict[str, list[Item]]:
    """A creature's property belongs to one split: what test asks can only be known from pretraining."""
    rng = random.Random(f"{ITEM_SEED}/commonsense_tiny")
    facts = [(creature, row) for creature in CREATURES for row in _PROPERTIES]
    rng.shuffle(facts)
    left = iter(facts)
    cut = {split: list(itertools.islice(left, size)) for split, size in reversed(FACTS.items())}
    splits: dict[str, list[Item]] = {split: [] for split in FACTS}
    for split, rows in cut.items():
        for creature, (name, values, questions) in rows:
            gold = getattr(creature, name)
            for question in questions:
                choices = [gold, *rng.sample([value for value in values if value != gold], NUM_CHOICES - 1)]
                rng.shuffle(choices)
                asked = {"question": question.format(creature.name), "choices": choices, "label": choices.index(gold)}
                splits[split].append(asked | {"fact": f"{name} of {creature.name}"})
        rng.shuffle(splits[split])
    return splits


@functools.cache
def splits(name: str) -> dict[str, list[Item]]:
    """All items of an embedded task, by split: train, validation and test.

    Args:
        name: gsm_tiny, commonsense_tiny, acceptability_tiny, paraphrase_tiny, entailment_tiny, summary_tiny, digits or
            glyphs_tiny.

    Raises:
        ValueError: there is no such task.
    """
    if name == "commonsense_tiny":
        return _commonsense_splits()
    if name in image_items.NAMES:
        return image_items.splits(name)
    if name not in _DRAWN:
        raise ValueError(f"no embedded data named {name!r}; choose from {sorted(NAMES)}")
    return _drawn_splits(name)
