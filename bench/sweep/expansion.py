"""Sweeps in stages: learning rates are chosen on the validation split, then the test split is scored at those.

An experiment's hydra.sweeper has `params`, common to all stages (what makes a row of the study's table), `rates` (where
each method's grid of learning rates lies), and `stages`, in order; conf/protocol/standard.yaml explains them. A stage
starts when the one before has ended, with any launcher, because its learning rates are read from that one's records.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from omegaconf import DictConfig

from bench.runs.record import CorruptRecordError, Record, read_record
from bench.study.plan_file import PUBLISHED, RATE_KEY, SHARED, TUNED, PlannedRun
from bench.study.protocol import GRID, RATE, Cell, Definition, words
from bench.study.selection import Selection, grid, on_grid, select

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.config import Run

_PRIVATE = (
    "results_dir",
    "cache",
    "hydra",
    "experiments",
    "run",
    "checkpoint",
    "launch",
)  # of no meaning to who runs a cell again


class Expansion:
    """The cells of an experiment, stage by stage.

    Args:
        arguments: the command line's overrides; one of a common axis replaces the experiment's, any other holds in
            every stage.
        compose: all overrides of a cell -> its validated Run.
    """

    def __init__(self, definition: Definition, arguments: Sequence[str], compose: Callable[[Sequence[str]], Run]):
        self.definition = definition
        self._compose = compose
        self._parser = OverridesParser.create()
        self._base, given = _parted(arguments)
        self._common = {key: given.pop(key, f"{key}={value}") for key, value in definition.params.items()}
        self._given = given
        self._selections: dict[tuple[str, ...], Selection | None] = {}
        self._products: dict[tuple[str, ...], list[list[str]]] = {}

    def groups(self) -> list[tuple[str, ...]]:
        """The rows of the table: the product of the common axes, without what `only` leaves out."""
        return [tuple(group) for group in self._product(list(self._common.values())) if self._takes_part(group)]

    def cells(self, stage: str) -> Iterator[Cell]:
        """The cells of one stage; a grid's with the points added to it before."""
        rule = self.definition.stages[stage][RATE]
        for group in self.groups():
            rates: Sequence[float | None] = self._rates(rule, group)
            waits = rule in (TUNED, SHARED) and list(rates) == [None] and self._is_trained(group)
            for overrides in self._overrides(stage, group):
                for rate in rates:
                    yield Cell(stage, group, overrides, rate, waits)

    def planned(self, stage: str) -> Iterator[tuple[PlannedRun, Cell, Run | None]]:
        """The distinct runs of a stage, validated; the run is None where it is refused.

        A cell that waits is validated at its grid's centre.
        """
        seen = set()
        for cell in self.cells(stage):
            shown = _shown(cell.all_overrides)
            rate = self._centre(cell.group) if cell.waits else None
            try:
                run = self._compose((*cell.all_overrides, *([f"{RATE_KEY}{rate:g}"] if rate else [])))
            except ValueError as error:
                yield PlannedRun(stage, cell.group, shown, None, str(error)), cell, None
                continue
            if cell.waits or run.run_id not in seen:
                seen.add(run.run_id)
                yield PlannedRun(stage, cell.group, shown, None if cell.waits else run.run_id), cell, run

    def selection(self, group: tuple[str, ...]) -> Selection | None:
        """What the records of the grid's stage say of a group; None as long as one is missing."""
        if group not in self._selections:
            self._selections[group] = self._read(group)
        return self._selections[group]

    def forget(self) -> None:
        """Lets go of what was read: records have come."""
        self._selections.clear()

    def beyond(self, group: tuple[str, ...]) -> float | None:
        """The next rate beyond the end of the grid at which the best one lies; None if none is due."""
        found = self.selection(group)
        if found is None or found.at_edge is None:
            return None
        added = len(found.points) - self.definition.rates.points
        step = 1 if found.at_edge == "upper" else -1
        edge = found.points[-1 if step > 0 else 0].learning_rate
        if added >= self.definition.extend:
            return None
        return on_grid(edge, step, self.definition.rates.per_decade)

    def grid_cells(self, group: tuple[str, ...], rate: float) -> list[Cell]:
        """The cells of the grid's stage at one more rate."""
        stage = self._grid_stage()
        return [Cell(stage, group, overrides, rate) for overrides in self._overrides(stage, group)]

    def _overrides(self, stage: str, group: tuple[str, ...]) -> list[tuple[str, ...]]:
        """All but the learning rate of a group's cells in a stage; the command line's come last."""
        settings = {key: _text(key, value) for key, value in self.definition.stages[stage].items() if key != RATE}
        return [(*self._base, *group, *own) for own in self._product(list((settings | self._given).values()))]

    def _read(self, group: tuple[str, ...]) -> Selection | None:
        if self._centre(group) is None:
            return None
        rates, per_decade = list(self._grid(group)), self.definition.rates.per_decade
        records = [record for rate in rates for record in self._records(group, rate)]
        if len(records) < sum(len(self.grid_cells(group, rate)) for rate in rates):
            return None
        for edge, step in ((rates[0], -1), (rates[-1], 1)):  # what was added before
            for place in count(1):
                found = self._records(group, on_grid(edge, step * place, per_decade))
                records += found
                if not found:
                    break
        return select(group, records)

    def _records(self, group: tuple[str, ...], rate: float) -> list[Record]:
        found = {}
        for cell in self.grid_cells(group, rate):
            run = self._compose(cell.all_overrides)
            try:
                found[run.run_id] = read_record(run.results_dir / run.study / run.run_id)
            except CorruptRecordError:
                continue
        return list(found.values())

    def _rates(self, rule: str, group: tuple[str, ...]) -> Sequence[float | None]:
        """The learning rates of a group under a rule; [None] where there is none, or none yet."""
        if rule == GRID:
            return self._grid_and_added(group) if self._is_trained(group) else []
        if not self._is_trained(group):
            return [None]
        if rule == PUBLISHED:
            return [self._of(self.definition.rates.published, PUBLISHED, group)]
        shared = self.definition.rates.shared
        if rule == SHARED and shared is None:
            raise ValueError("hydra.sweeper.rates.shared is missing: a number, or a method whose tuned rate all take")
        if rule == SHARED and not isinstance(shared, str):
            return [shared]
        chosen = self.selection(group if rule == TUNED else self._as_method(group, str(shared)))
        return [chosen.best.learning_rate if chosen and chosen.best else None]

    def _grid_and_added(self, group: tuple[str, ...]) -> list[float]:
        found = self.selection(group)
        return [point.learning_rate for point in found.points] if found else list(self._grid(group))

    def _grid(self, group: tuple[str, ...]) -> tuple[float, ...]:
        rates = self.definition.rates
        return grid(self._of(rates.centre, "centre", group), rates.points, rates.per_decade)

    def _grid_stage(self) -> str:
        return next(name for name, stage in self.definition.stages.items() if stage[RATE] == GRID)

    def _as_method(self, group: tuple[str, ...], method: str) -> tuple[str, ...]:
        """The same row of another method; of another rank where it does not take part with this one."""
        axes = {key: f"{key}={value}" for key, value in self.definition.params.items()}
        rows = self._product(list((self._common | {"method": axes.get("method", "")}).values()))
        groups = [tuple(other) for other in rows if _method(other) == method and self._takes_part(other)]
        wanted = set(group) - {f"method={_method(group)}"}
        near = max(groups, key=lambda other: len(wanted & set(other)), default=None)
        if near is None:
            raise ValueError(f"hydra.sweeper.rates.shared={method}: it is no method of this sweep")
        return near

    def _is_trained(self, group: tuple[str, ...]) -> bool:
        return _method(group) != "none"

    def _centre(self, group: tuple[str, ...]) -> float | None:
        return self.definition.rates.centre.get(_method(group))

    def _of(self, table: Mapping[str, float], name: str, group: tuple[str, ...]) -> float:
        if _method(group) not in table:
            raise ValueError(f"hydra.sweeper.rates.{name} has nothing for method={_method(group)}")
        return table[_method(group)]

    def _takes_part(self, group: Sequence[str]) -> bool:
        wanted = self.definition.only.get(_method(group), {})
        given = dict(text.split("=", 1) for text in group)
        return all(given.get(axis) in words(values) for axis, values in wanted.items() if axis in given)

    def _product(self, texts: Sequence[str]) -> list[list[str]]:
        key = tuple(texts)
        if key not in self._products:  # parsing takes milliseconds a text, and groups have nearly all in common
            (cells,) = BasicSweeper.split_arguments(self._parser.parse_overrides(list(texts)), max_batch_size=None)
            self._products[key] = cells
        return self._products[key]


def register() -> None:
    """Makes Hydra know the sweeper, as hydra/sweeper=staged (conf/protocol), and the launchers of conf/launch."""
    folder = str(Path(__file__).parent / "plugins")
    if folder not in sys.path:
        sys.path.append(folder)  # a part of the namespace hydra_plugins, from which Hydra takes sweepers
    from hydra_plugins.lora_init_bench import ProcessLauncher, StagedSweeper
    from hydra_plugins.lora_init_bench_submitit import SubmititLocal, SubmititSlurm

    for plugin in (StagedSweeper, ProcessLauncher, SubmititLocal, SubmititSlurm):
        Plugins.instance().register(plugin)
    target = f"{StagedSweeper.__module__}.{StagedSweeper.__name__}"
    node: dict[str, Any] = {"_target_": target, "params": {}, "max_batch_size": None}
    ConfigStore.instance().store(group="hydra/sweeper", name="staged", node=node, provider="lora-init-bench")


def is_staged(sweeper: DictConfig) -> bool:
    """Whether an experiment has stages."""
    return sweeper.get("stages") is not None


def batches(expansion: Expansion, plan: Callable[[], None]) -> Iterator[list[list[str]]]:
    """The overrides of each stage's cells, when their turn has come.

    Args:
        plan: called whenever learning rates have become known, so that the study's plan can be written.
    """
    for stage in expansion.definition.asked:
        expansion.forget()
        plan()
        planned = list(expansion.planned(stage))
        for _, cell, _run in planned:
            if cell.waits:
                print(f"{stage}: {' '.join(cell.group)} has no learning rate yet: its grid is not complete, or no rate "
                      "of it survived", file=sys.stderr)  # fmt: skip
        if ready := [list(cell.all_overrides) for _, cell, run in planned if run is not None and not cell.waits]:
            yield ready
        if expansion.definition.stages[stage][RATE] == GRID and expansion.definition.extend:
            yield from _extensions(expansion)
    expansion.forget()
    plan()


def _extensions(expansion: Expansion) -> Iterator[list[list[str]]]:
    """Points beyond the ends of grids, until no best one lies at an end or as many as allowed were added."""
    while True:
        expansion.forget()
        added = [
            list(cell.all_overrides)
            for group in expansion.groups()
            if (rate := expansion.beyond(group)) is not None
            for cell in expansion.grid_cells(group, rate)
        ]
        if not added:
            return
        yield added


def described(cell: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Group and overrides of a cell of a sweep without stages."""
    shown = _shown(cell)
    return tuple(text for text in shown if not text.startswith("seed=")), shown


def _parted(arguments: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """What stays as it is (the experiment, deletions), and the overrides of keys."""
    base, given = [], {}
    for text in arguments:
        key = text.partition("=")[0]
        if text.startswith(("+", "~")) or key.startswith("hydra"):
            base.append(text)
        else:
            given[key] = text
    return tuple(base), given


def _text(key: str, value: Any) -> str:
    return f"{key}={'null' if value is None else str(value).lower() if isinstance(value, bool) else value}"


def _method(group: Sequence[str]) -> str:
    return next((text.removeprefix("method=") for text in group if text.startswith("method=")), "")


def _shown(overrides: Sequence[str]) -> tuple[str, ...]:
    """What another machine needs to run a cell again."""
    kept = [text for text in overrides if text.lstrip("+~").split("=")[0].split(".")[0] not in _PRIVATE]
    return tuple("data.root=FOLDER" if text.startswith("data.root=") else text for text in kept)
