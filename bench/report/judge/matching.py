"""Which rows of a table are compared: those that differ in the method or in the settings, not in both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations, combinations_with_replacement, islice
from typing import Any

from bench.report.read.load import Cell

MOST_PAIRS = 10_000  # of one table: seconds; a table of 400 rows in 16 methods has 7,800
Pair = tuple[int, int]


def matches(one: Cell, other: Cell) -> bool:
    """Whether two rows are of one method, or of the same settings where both have them."""
    mine, theirs = _settings(one), _settings(other)
    return one.method == other.method or all(mine[axis] == theirs[axis] for axis in mine.keys() & theirs.keys())


def matching(cells: Sequence[Cell], most: int = MOST_PAIRS) -> tuple[set[Pair], str]:
    """The pairs of rows that match, each in the rows' order, and in words which were left out as too many.

    Different methods at the same settings come first, then the settings of one method; either all of a kind or none.
    """
    found: set[Pair] = set()
    left_out = []
    kinds = {
        "different methods at the same settings": _of_settings(cells),
        "different settings of the same method": _of_methods(cells),
    }
    for name, pairs in kinds.items():
        room = most - len(found)
        more = list(islice((pair for pair in pairs if pair not in found), room + 1))
        if len(more) > room:
            left_out.append(name)
        else:
            found.update(more)
    return found, " and ".join(left_out)


def _settings(cell: Cell) -> dict[str, Any]:
    """What can be the same under another method."""
    return {axis: value for axis, value in cell.axes.items() if value is not None and not axis.startswith("method.")}


def _of_settings(cells: Sequence[Cell]) -> Iterator[Pair]:
    """Rows are looked up by their settings: to try all pairs of thousands takes longer than to compare the few."""
    settings = [_settings(cell) for cell in cells]
    kinds: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, own in enumerate(settings):
        kinds[tuple(sorted(own))].append(index)
    for one, other in combinations_with_replacement(kinds, 2):
        shared = [axis for axis in one if axis in other]
        places: dict[tuple, list[int]] = defaultdict(list)
        for index in kinds[other]:
            places[tuple(settings[index][axis] for axis in shared)].append(index)
        for index in kinds[one]:
            for there in places[tuple(settings[index][axis] for axis in shared)]:
                if one != other or index < there:
                    yield min(index, there), max(index, there)


def _of_methods(cells: Sequence[Cell]) -> Iterator[Pair]:
    by_method: dict[str, list[int]] = defaultdict(list)
    for index, cell in enumerate(cells):
        by_method[cell.method].append(index)
    for rows in by_method.values():
        yield from combinations(rows, 2)
