"""Sweeps in stages: learning rates are chosen on the validation split, then the test split is scored at those.

An experiment's hydra.sweeper has `params`, the axes common to all stages (their product gives the rows of the study's
table), `rates` (each method's grid of learning rates), and `stages`, in order; conf/protocol/standard.yaml explains
them. A stage starts when the one before has ended, with any launcher, because its learning rates are read from that
one's records.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from bench.runs.record import CorruptRecordError, Record, read_record
from bench.study.plan_file import PUBLISHED, RATE_KEY, SHARED, TUNED, PlannedRun
from bench.study.protocol import GRID, RATE, Definition, StageCell, words
from bench.study.selection import Selection, grid, on_grid, select
from bench.sweep.compose import product

if TYPE_CHECKING:
    from bench.config import Run

# Keys that are left out of the command that reruns a cell: they change no result, or are given once for the command.
_OF_THE_COMMAND = ("cache", "hydra", "experiments", "run", "checkpoint", "launch")


@dataclass(frozen=True)
class PlannedCell:
    """A validated cell of a sweep.

    Attributes:
        planned: its entry in study.json.
        overrides: its whole command line.
        run: None if the cell is refused; at the centre of its grid if it waits for its learning rate.
    """

    planned: PlannedRun
    overrides: tuple[str, ...]
    run: Run | None

    @property
    def waits(self) -> bool:
        """Whether an earlier stage has to choose its learning rate first."""
        return self.planned.run_id is None and self.planned.refused is None


class Expansion:
    """The cells of an experiment, stage by stage.

    Args:
        definition: the experiment's hydra.sweeper.
        arguments: the command line's overrides; one of a common axis replaces the experiment's, any other holds in
            every stage.
        compose: makes and validates the run of a cell.
    """

    def __init__(
        self, definition: Definition, arguments: Sequence[str], compose: Callable[[Sequence[str]], Run]
    ) -> None:
        self.definition = definition
        self._compose = compose
        # The experiment, deletions and Hydra's own are in every cell unchanged.
        self._base = tuple(text for text in arguments if text.startswith(("+", "~", "hydra")))
        self._given = {text.partition("=")[0]: text for text in arguments if text not in self._base}
        self._common = {key: self._given.pop(key, f"{key}={value}") for key, value in definition.params.items()}
        self._selections: dict[tuple[str, ...], Selection | None] = {}

    def groups(self) -> list[tuple[str, ...]]:
        """The rows of the table: the product of the common axes, without what `only` leaves out."""
        return [group for group in product(list(self._common.values())) if self._takes_part(group)]

    def cells(self, stage: str) -> Iterator[StageCell]:
        """The cells of one stage; a grid's with the points added to it before."""
        rule = self.definition.stages[stage][RATE]
        for group in self.groups():
            rates: Sequence[float | None] = self._rates(rule, group)
            waits = rule in (TUNED, SHARED) and list(rates) == [None] and _method(group) != "none"
            for overrides in self._overrides(stage, group):
                for rate in rates:
                    yield StageCell(stage, group, overrides, rate, waits)

    def planned(self, stage: str) -> Iterator[PlannedCell]:
        """The cells of a stage, validated, those with equal runs once."""
        seen = set()
        for cell in self.cells(stage):
            overrides, told = cell.all_overrides, shown(cell.all_overrides)
            rate = self.definition.rates.centre.get(_method(cell.group)) if cell.waits else None
            try:
                run = self._compose((*overrides, *([f"{RATE_KEY}{rate:g}"] if rate else [])))
            except ValueError as error:
                yield PlannedCell(PlannedRun(stage, cell.group, told, None, str(error)), overrides, None)
                continue
            if cell.waits or run.run_id not in seen:
                seen.add(run.run_id)
                planned = PlannedRun(stage, cell.group, told, None if cell.waits else run.run_id)
                yield PlannedCell(planned, overrides, run)

    def selection(self, group: tuple[str, ...]) -> Selection | None:
        """What the records of the grid's stage say of a group; None as long as one is missing."""
        if group not in self._selections:
            self._selections[group] = self._read(group)
        return self._selections[group]

    def forget(self) -> None:
        """Drops what was read from records, because new ones may have come."""
        self._selections.clear()

    def batches(self, plan: Callable[[], None]) -> Iterator[list[tuple[str, ...]]]:
        """The overrides of each stage's cells, when its turn has come: the records that it needs can be read then.

        Args:
            plan: called whenever learning rates have become known, so that the study's plan can be written.
        """
        for stage in self.definition.asked:
            self.forget()
            plan()
            cells = list(self.planned(stage))
            for cell in cells:
                if cell.waits:
                    print(f"{stage}: {' '.join(cell.planned.group)} has no learning rate yet: its grid is not "
                          "complete, or no rate of it survived", file=sys.stderr)  # fmt: skip
            if ready := [cell.overrides for cell in cells if cell.run is not None and not cell.waits]:
                yield ready
            if self.definition.stages[stage][RATE] == GRID and self.definition.extend:
                yield from iter(self._beyond_grids, [])  # until it returns none
        self.forget()
        plan()

    def _beyond_grids(self) -> list[tuple[str, ...]]:
        """The overrides of one more rate for each group whose best one is at an end of its grid."""
        self.forget()
        rates = ((group, self.beyond(group)) for group in self.groups())
        return [cell.all_overrides for group, rate in rates if rate for cell in self.grid_cells(group, rate)]

    def beyond(self, group: tuple[str, ...]) -> float | None:
        """The next rate beyond the end of the grid at which the best one lies; None if none is due."""
        found, rates = self.selection(group), self.definition.rates
        if found is None or found.at_edge is None or len(found.points) >= rates.points + self.definition.extend:
            return None
        place, step = (-1, 1) if found.at_edge == "upper" else (0, -1)
        return on_grid(found.points[place].learning_rate, step, rates.per_decade)

    def grid_cells(self, group: tuple[str, ...], rate: float) -> list[StageCell]:
        """The cells of the grid's stage at one more rate."""
        stage = next(name for name, stage in self.definition.stages.items() if stage[RATE] == GRID)
        return [StageCell(stage, group, overrides, rate) for overrides in self._overrides(stage, group)]

    def _overrides(self, stage: str, group: tuple[str, ...]) -> list[tuple[str, ...]]:
        """All but the learning rate of a group's cells in a stage; the command line's come last."""
        settings = {key: _text(key, value) for key, value in self.definition.stages[stage].items() if key != RATE}
        axes = list((settings | self._given).values())
        return [(*self._base, *group, *own) for own in product(axes)]

    def _read(self, group: tuple[str, ...]) -> Selection | None:
        if _method(group) not in self.definition.rates.centre:
            return None
        rates, per_decade = list(self._grid(group)), self.definition.rates.per_decade
        records = [record for rate in rates for record in self._records(group, rate)]
        if len(records) < sum(len(self.grid_cells(group, rate)) for rate in rates):
            return None
        for edge, step in ((rates[0], -1), (rates[-1], 1)):  # what was added before
            places = count(step, step)
            while found := self._records(group, on_grid(edge, next(places), per_decade)):
                records += found
        return select(group, records)

    def _records(self, group: tuple[str, ...], rate: float) -> list[Record]:
        found = {}
        for cell in self.grid_cells(group, rate):
            run = self._compose(cell.all_overrides)
            with suppress(CorruptRecordError):
                found[run.run_id] = read_record(run.results_dir / run.study / run.run_id)
        return list(found.values())

    def _rates(self, rule: str, group: tuple[str, ...]) -> Sequence[float | None]:
        """The learning rates of a group under a rule; [None] where there is none, or none yet."""
        if _method(group) == "none":
            return [] if rule == GRID else [None]
        if rule == GRID:
            found = self.selection(group)
            return [point.learning_rate for point in found.points] if found else self._grid(group)
        if rule == PUBLISHED:
            return [self._of(self.definition.rates.published, PUBLISHED, group)]
        shared = self.definition.rates.shared
        if rule == SHARED and shared is None:
            raise ValueError("hydra.sweeper.rates.shared is missing: a number, or a method whose tuned rate all take")
        if rule == SHARED and not isinstance(shared, str):
            return [shared]
        chosen = self.selection(group if rule == TUNED else self._as_method(group, str(shared)))
        return [chosen.best.learning_rate if chosen and chosen.best else None]

    def _grid(self, group: tuple[str, ...]) -> tuple[float, ...]:
        rates = self.definition.rates
        return grid(self._of(rates.centre, "centre", group), rates.points, rates.per_decade)

    def _as_method(self, group: tuple[str, ...], method: str) -> tuple[str, ...]:
        """The same row of another method; of another rank where it does not take part with this one."""
        axes = {key: f"{key}={value}" for key, value in self.definition.params.items()}
        rows = product(list((self._common | {"method": axes.get("method", "")}).values()))
        groups = [other for other in rows if _method(other) == method and self._takes_part(other)]
        wanted = set(group) - {f"method={_method(group)}"}
        near = max(groups, key=lambda other: len(wanted & set(other)), default=None)
        if near is None:
            raise ValueError(f"hydra.sweeper.rates.shared={method}: it is no method of this sweep")
        return near

    def _of(self, table: Mapping[str, float], name: str, group: tuple[str, ...]) -> float:
        if _method(group) not in table:
            raise ValueError(f"hydra.sweeper.rates.{name} has nothing for method={_method(group)}")
        return table[_method(group)]

    def _takes_part(self, group: Sequence[str]) -> bool:
        wanted = self.definition.only.get(_method(group), {})
        given = dict(text.split("=", 1) for text in group)
        return all(given.get(axis) in words(values) for axis, values in wanted.items() if axis in given)


def _text(key: str, value: Any) -> str:
    return f"{key}={'null' if value is None else str(value).lower() if isinstance(value, bool) else value}"


def _method(group: Sequence[str]) -> str:
    return next((text.removeprefix("method=") for text in group if text.startswith("method=")), "")


def repeating(overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides with which this machine reruns a cell: its runs and its data are where they were."""
    return tuple(text for text in overrides if _key(text).partition(".")[0] not in _OF_THE_COMMAND)


def portable(overrides: Sequence[str]) -> tuple[str, ...]:
    """The same for any machine: FOLDER stands for its data and for a results folder that is not relative."""
    return tuple(f"{_key(text)}=FOLDER" if _names_a_folder(text) else text for text in repeating(overrides))


def shown(overrides: Sequence[str]) -> tuple[str, ...]:
    """The same for a study's plan, which lies in the results folder and does not name it."""
    return tuple(text for text in portable(overrides) if _key(text) != "results_dir")


def _key(text: str) -> str:
    return text.lstrip("+~").partition("=")[0]


def _names_a_folder(text: str) -> bool:
    """Whether an override gives a folder that other machines do not have."""
    key, value = _key(text), text.partition("=")[2].strip("'\" ")
    return key == "data.root" or (key == "results_dir" and value.startswith(("/", "~", "\\~")))
