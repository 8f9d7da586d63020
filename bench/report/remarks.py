"""What a reader of a table has to know of its numbers, in lines of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.record import Record
from bench.report.load import Cell, Study
from bench.report.scores import Column, Scores, heading

DAGGER = "†"
_INTERVAL = (
    "Mean [95 % interval]. With several seeds the interval is Student's t over seeds; with one run it is over its "
    "items."
)
_SECONDS = (
    "Init: calibration and factorisation; train: the training loop without the alignment measures; seconds, means "
    "over seeds."
)
_HEAD = (
    "Head: parameters of the classification head, which trains in every method alike and is not counted in trainable; "
    "in a model that is not trained it is random."
)


def note(columns: Sequence[Column], any_head: bool) -> str:
    """What the columns of all tables mean.

    Args:
        columns: those that are shown.
        any_head: whether a table has the column "head".
    """
    lower = dict.fromkeys(column.metric.replace("_", " ") for column in columns if not column.higher_is_better)
    best = "highest" if not lower else "lowest"
    if lower and any(column.higher_is_better for column in columns):
        best = f"best (of {', '.join(lower)} the lowest, else the highest)"
    bold = f"Bold: the {best} mean, if its interval does not hold the runner-up's."
    return " ".join((_INTERVAL, bold, _SECONDS, *([_HEAD] if any_head else [])))


def remarks(part: Study, scores: Scores, shown: Sequence[Column]) -> list[str]:
    """The lines under one table; none where there is nothing to say."""
    lines = (
        _choice(scores, shown),
        _average(scores),
        "Held-out loss in nats." if any(column.dataset is None for column in shown) else "",
        _majority(part, scores, shown),
        *_data(part.cells, scores),
    )
    return [line for line in lines if line]


def flagged(cell: Cell, above_majority: bool | None) -> bool:
    """Whether a number gets the dagger; what is not trained has nothing to be stuck in."""
    return cell.trained and above_majority is False


def _choice(scores: Scores, shown: Sequence[Column]) -> str:
    if len(shown) == len(scores.columns):
        return ""
    return f"The first metric of each task; all {len(scores.columns)} metrics are in results.csv."


def _average(scores: Scores) -> str:
    averaged, first = scores.averaged, scores.first_metrics
    if not averaged:
        return ""
    which = "each task" if len(averaged) == len(first) else ", ".join(str(column.dataset) for column in averaged)
    return f"Average: mean of the first metric of {which}; its interval is over seeds only."


def _majority(part: Study, scores: Scores, shown: Sequence[Column]) -> str:
    known = []
    for column in shown:
        values = dict.fromkeys(
            column.scale.text(found[column].majority)  # type: ignore[arg-type]
            for found in scores.found
            if column in found and found[column].majority is not None
        )
        if values:
            known.append(f"{_apart(column, scores)} {' or '.join(values)} {column.scale.unit}".rstrip())
    if not known:
        return ""
    stuck = any(
        flagged(cell, found[column].above_majority)
        for cell, found in zip(part.cells, scores.found, strict=True)
        for column in shown
        if column in found
    )
    explained = f" {DAGGER}: trained, and the interval does not lie above the majority class." if stuck else ""
    return f"Majority class: {', '.join(known)}.{explained}"


def _apart(column: Column, scores: Scores) -> str:
    return heading(column, scores.columns).removesuffix(f" {column.scale.unit}")


def _data(cells: Sequence[Cell], scores: Scores) -> list[str]:
    """Missing data, contamination, cuts and merging, where there are any."""
    datasets = list(dict.fromkeys(str(column.dataset) for column in scores.columns))
    short = dict.fromkeys(remark for cell in cells for run in cell.runs for remark in run.data.get("incomplete", []))
    contaminated = _by_dataset(cells, datasets, lambda run, name: run.data.get("contaminated", {}).get(name))
    truncated = _by_dataset(cells, datasets, lambda run, name: run.scoring.get("truncated", {}).get(name))
    dropped = _by_method(cells, lambda run: run.data.get("num_dropped") if run.training else None)
    cut = _by_method(cells, lambda run: run.data.get("num_truncated") if run.training else None)
    return [
        f"Incomplete data: {', '.join(short)}." if short else "",
        contaminated and f"Contaminated, scored items that occur in the training set: {contaminated}.",
        truncated and f"Truncated, scored items longer than the model takes: {truncated}.",
        dropped and f"Training examples left out as too long: {dropped}.",
        cut and f"Training examples cut to the limit: {cut}.",
        _merged(cells),
    ]


def _by_dataset(cells: Sequence[Cell], datasets: list[str], count: Callable[[Record, str], int | None]) -> str:
    counts = {name: _by_method(cells, lambda run, name=name: count(run, name)) for name in datasets}  # type: ignore[misc]
    return ", ".join(f"{name} {text}" for name, text in counts.items() if text)


def _by_method(cells: Sequence[Cell], count: Callable[[Record], int | None]) -> str:
    """The counts with the methods that have them, '12 (every method)' or '3 (LoRA), 4 (PiSSA)'; "" where all are 0.

    Args:
        count: of a run; None where it does not apply.
    """
    methods: dict[str, list[str]] = {}
    for cell in cells:
        counts = sorted({found for run in cell.runs if (found := count(run)) is not None})
        if counts:
            methods.setdefault("–".join(f"{n:,}" for n in dict.fromkeys((counts[0], counts[-1]))), []).append(
                cell.title
            )
    if len(methods) == 1 and len(next(iter(methods.values()))) > 1:
        methods = {number: ["every method"] for number in methods}
    return ", ".join(f"{number} ({'; '.join(titles)})" for number, titles in methods.items() if number != "0")


def _merged(cells: Sequence[Cell]) -> str:
    """Items answered differently once the adapter is merged, over a cell's runs."""
    found = []
    for cell in cells:
        merged = [run.scoring["merged"] for run in cell.runs if run.scoring.get("merged")]
        if differing := sum(one["num_differing"] for one in merged):
            found.append(f"{cell.title} {differing:,} of {sum(one['num_items'] for one in merged):,}")
    return f"Scored items that change with the adapter merged into the weights: {', '.join(found)}." if found else ""
