"""Several studies side by side: the rows of all in one table, and which rows of two studies can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Literal

from bench.report.palette import order
from bench.report.read.load import RATE, SHARED, STUDY, Cell, Study, axes_of, settings
from bench.report.read.members import precision
from bench.report.read.outcomes import items_of
from bench.study.plan_file import RUN, SEEDS, StudyPlan
from bench.study.selection import first_of_each

COLUMNS = ("method.", "rank.r", "train.max_steps")  # settings that are columns where the studies differ in them


def side_by_side(studies: Sequence[Study], folder: Path, mix: bool = False) -> Study:
    """The rows of several studies, each at its main stage, as one study; the studies stay as they are.

    Args:
        studies: of different names.
        folder: where the report goes.
        mix: compare rows that were made on different stacks, too.

    Returns:
        A study whose rows name theirs in the axis `study`; one that is the same runs in several is there once. Rows of
        two studies have a comparison where task, model, data, scored items, budget, precision and stack are equal; the
        notes say which have none, and why.
    """
    cells = [replace(cell, conditions=_conditions(cell, mix)) for cell in _each_once(studies)]
    pairing: Literal["items", "seeds"] = "seeds" if all(study.pairing == SEEDS for study in studies) else "items"
    together = Study(
        name=" ".join(study.name for study in studies),
        folder=folder,
        cells=sorted(_with_axes(cells), key=lambda cell: order(cell.method)),  # of a method in the studies' order
        failed=[record for study in studies for record in study.failed],
        unreadable=[name for study in studies for name in study.unreadable],
        plan=StudyPlan(None, (RUN,), (), pairing),
        members=[member for study in studies for member in study.members],
        beside=tuple(studies),
    )
    stages = ", ".join(f"{study.name} at its stage {study.stage}" for study in studies if study.stage != RUN)
    heads = [f"Studies side by side: {stages}."] if stages else []
    return replace(together, notes=(*heads, *_notes(together, [study.name for study in studies])))


def _each_once(studies: Sequence[Study]) -> list[Cell]:
    """The rows of all studies with the names of theirs; one that is the same runs in several names all of these.

    A run that was done again on another stack is not the same.
    """
    names: dict[frozenset[tuple[str, str | None]], list[str]] = {}
    first: dict[frozenset[tuple[str, str | None]], Cell] = {}
    for study in studies:
        for cell in study.cells:
            runs = frozenset((run.run_id, run.environment.fingerprint) for run in cell.runs)
            names.setdefault(runs, []).append(study.name)
            first.setdefault(runs, cell)
    return [replace(cell, study=" and ".join(names[runs])) for runs, cell in first.items()]


def _with_axes(cells: Sequence[Cell]) -> list[Cell]:
    """The rows with the study as an axis, those of their own studies, and COLUMNS in which the studies differ."""
    own = {axis for cell in cells for axis in cell.axes} - {RATE}

    def is_column(key: str, cell: Cell) -> bool:
        if "." not in key:  # task, model and method, by which axes are found
            return True
        return key in own or key.startswith(COLUMNS) or (key == RATE and RATE in cell.axes)

    every = [{key: value for key, value in settings(cell.runs[0]).items() if is_column(key, cell)} for cell in cells]
    axes = axes_of(dict(enumerate(every)))
    return [
        replace(cell, axes={STUDY: cell.study} | {axis: values.get(axis) for axis in axes})
        for cell, values in zip(cells, every, strict=True)
    ]


def _conditions(cell: Cell, mix: bool) -> dict[str, str]:
    """What a comparison needs to be equal; an untrained model has no data and no budget."""
    run = cell.runs[0]
    training, (trained_in, scored_in) = run.config.train, precision(run)
    of_training = {
        "data": (run.data.sha256 or "")[:8],
        "budget": f"{training.max_steps} steps of {training.batch_size * training.gradient_accumulation_steps}",
        "training precision": str(trained_in),
    }
    return {
        "model": run.model.revision or run.model.name,
        "items": ", ".join(_items(cell)),
        **(of_training if cell.trained else {}),
        "scoring precision": scored_in,
        **({} if mix else {"stack": run.environment.fingerprint}),
    }


def _items(cell: Cell) -> Iterator[str]:
    """Of each dataset the number of its items, and a hash of which they are where the records hold them."""
    for score in first_of_each(cell.runs[0].scores, lambda score: score.task):
        items = items_of(cell.folders[0], score.task, score.metric)
        which = "" if items is None else f" ({items.digest:08x})"
        yield f"{score.task} {score.num_examples}{which}"


def _notes(together: Study, names: Sequence[str]) -> Iterator[str]:
    """For each task and model which rows of two studies are compared; for the others in what they differ."""
    parts = together.by_task_and_model
    for place, part in parts.items():
        where = f"{', '.join(place)}: " if len(parts) > 1 else ""
        of_studies = {cell.study for cell in part.cells}
        here = [name for name in names if name in of_studies]
        if len(of_studies) == 1:
            yield f"{where}Only in {here[0] if here else part.cells[0].study}: nothing is compared between studies."
        if both := [cell.label for cell in part.cells if cell.study not in names]:
            yield f"{where}In one row, because the studies named in it have the same runs: {', '.join(both)}."
        for one, other in combinations(here, 2):
            yield where + _compared(part, one, other)


def _compared(part: Study, one: str, other: str) -> str:
    """Of the rows of two studies which are compared, and why the others are not."""
    mine, theirs = ([cell for cell in part.cells if cell.study == name] for name in (one, other))
    apart = [(first, second) for first in mine for second in theirs if first.unlike(second)]
    if not apart:
        return f"Rows of {one} are compared with those of {other}."
    reasons = []
    for name in dict.fromkeys(name for first, second in apart for name in first.unlike(second)):
        here = [(first, second) for first, second in apart if name in first.unlike(second)]
        if name == SHARED:
            reasons.append(f"runs that both have: {', '.join(dict.fromkeys(first.label for first, _ in here))}")
        else:
            sides = [" or ".join(sorted({pair[side].conditions[name] for pair in here})) for side in (0, 1)]
            reasons.append(f"{name}: {' against '.join(sides)}")
    which = "not compared" if len(apart) == len(mine) * len(theirs) else "compared, but not all,"
    return f"Rows of {one} are {which} with those of {other} ({'; '.join(reasons)})."
