"""Is what a model is asked in scoring part of what it was trained on?"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

# Shorter texts are compared whole: "it works" inside another sentence says nothing.
FEWEST_WORDS = 8


def words(text: str) -> tuple[str, ...]:
    """A text without case, punctuation and spacing."""
    return tuple(re.findall(r"\w+", text.lower()))


def contaminated(test: Iterable[str], train: Iterable[str]) -> list[int]:
    """Which test texts occur, normalised, in a training text; one of fewer than 8 words must be equal to it."""
    tested = [words(text) for text in test]
    by_opening: dict[tuple[str, ...], set[tuple[str, ...]]] = defaultdict(set)
    short = set()
    for text in tested:
        if len(text) < FEWEST_WORDS:
            short.add(text)
        else:
            by_opening[text[:FEWEST_WORDS]].add(text)
    seen: set[tuple[str, ...]] = set()
    for said in train:
        read = words(said)
        if read in short:
            seen.add(read)
        for start in range(len(read) - FEWEST_WORDS + 1):
            candidates = by_opening.get(read[start : start + FEWEST_WORDS])
            if candidates:
                seen.update(found for found in candidates if read[start : start + len(found)] == found)
    return [index for index, text in enumerate(tested) if text in seen]
