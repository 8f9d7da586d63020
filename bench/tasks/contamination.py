"""Contamination: scored items that occur in the training texts."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

# Shorter texts are compared whole: "it works" inside another sentence says nothing.
FEWEST_WORDS = 8


def words(text: str) -> tuple[str, ...]:
    """The words of a text in lower case, without punctuation."""
    return tuple(re.findall(r"\w+", text.lower()))


def contaminated(test: Iterable[str], train: Iterable[str]) -> list[int]:
    """Indices of the test texts that occur, normalised, in a training text; under 8 words, that equal one."""
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
