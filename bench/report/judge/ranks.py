"""The place of each method that significant differences leave open: methods that no comparison tells apart tie."""

from __future__ import annotations

from collections.abc import Iterable

from bench.report.judge.comparisons import Judged, Measured

Place = tuple[int, int]  # the best and the worst


def places(num_rows: int, better: Iterable[tuple[int, int]]) -> list[Place]:
    """The best and the worst place of each row, from 1.

    A row is below another only where it was found to be worse, or where a row between them shows it: the family's
    error rate covers both differences, and from both follows the third.

    Args:
        num_rows: of the table.
        better: pairs of rows, the better one first, that differ significantly.
    """
    below: list[set[int]] = [set() for _ in range(num_rows)]
    for first, second in better:
        below[first].add(second)
    for between in range(num_rows):  # Warshall's closure
        for worse in below:
            if between in worse:
                worse.update(below[between])
    above = [sum(row in worse for worse in below) for row in range(num_rows)]
    return [(1 + num_above, num_rows - len(worse)) for num_above, worse in zip(above, below, strict=True)]


def trained_places(judged: Judged, measured: Measured, among: Iterable[int]) -> dict[int, Place]:
    """The places of the trained rows that have a value in a column, by row.

    Items alone say that two runs differ, not that their methods do: a difference of one seed puts no row below another.

    Args:
        judged: with the comparisons of the whole table, over which they are corrected.
        measured: the column.
        among: the rows that are ranked.
    """
    rows = [row for row in among if measured.samples[row] is not None and judged.cells[row].trained]
    better = []
    for one in judged.comparisons:
        if one.measured is measured and one.is_significant and {one.first, one.second} <= {*rows}:
            leads = one.difference.is_better_than(0.0, measured.higher_is_better)
            first, second = (one.first, one.second) if leads else (one.second, one.first)
            better.append((rows.index(first), rows.index(second)))
    return dict(zip(rows, places(len(rows), better), strict=True))
