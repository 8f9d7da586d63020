"""The cells of one command: composed, validated and written into the study's plan before the first one is launched."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from filelock import FileLock
from hydra.errors import HydraException
from omegaconf import DictConfig

from bench.process.terminal import ERROR
from bench.runs.folder import RunFolder
from bench.runs.lease import is_held
from bench.study.plan_file import ITEMS, RUN, PlannedRun, StudyPlan, read_plan, write_plan
from bench.study.protocol import Definition, check_sweeper
from bench.sweep.arguments import refuse
from bench.sweep.compose import Composer, product, reason
from bench.sweep.countdown import Countdown
from bench.sweep.expansion import Expansion, PlannedCell, of_the_sweep, shown
from bench.sweep.resolvers import check_folder, experiment
from bench.sweep.size import refusal

if TYPE_CHECKING:
    from bench.config import Run


class Sweep:
    """A sweep, in stages or not.

    Args:
        config: composed for the sweep, with its hydra node.
        arguments: the command line's overrides.

    Raises:
        ValueError: hydra.sweeper is wrong, or an override cannot be swept over; one line.
    """

    current: ClassVar[Sweep | None] = None  # of this process; bench.sweep.guard.Guard sets it

    def __init__(self, config: DictConfig, arguments: Sequence[str]) -> None:
        sweeper = config.hydra.sweeper
        check_sweeper(sweeper)
        self.compose = Composer(config)
        self._arguments = arguments
        self.planned: list[PlannedCell] = []
        self.num_launched = 0
        self.expansion: Expansion | None = None
        self.countdown = Countdown()
        try:
            if sweeper.get("stages") is not None:
                self.expansion = Expansion(Definition.from_config(sweeper), arguments, self.compose)
            else:
                axes = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
                self._cells = product([*axes, *arguments])
        except (HydraException, TypeError) as error:
            raise ValueError(reason(error)) from None

    @property
    def runs(self) -> list[Run]:
        """The planned runs, without those that wait for a learning rate; equal ones as often as they are planned."""
        return [cell.run for cell in self.planned if cell.run is not None and not cell.waits]

    def cells(self) -> Iterator[PlannedCell]:
        """The cells of all stages to be run now, validated; a refused one does not stop the others.

        Raises:
            ValueError: hydra.sweeper says nothing about some learning rate.
        """
        if self.expansion is not None:
            for stage in self.expansion.definition.asked:
                yield from self.expansion.planned(stage)
            return
        for overrides in self._cells:
            one = shown(overrides)
            group = tuple(text for text in one if not text.startswith("seed="))
            try:
                run = self.compose(overrides)
            except ValueError as error:
                yield PlannedCell(PlannedRun(RUN, group, one, None, str(error)), overrides, None)
            else:
                yield PlannedCell(PlannedRun(RUN, group, one, run.run_id), overrides, run)

    def plan(self) -> None:
        """Validates every cell and writes the study's plan; exits with one line if a cell is refused."""
        self.planned = []
        try:
            for cell in self.cells():
                if cell.planned.refused:
                    refuse(cell.planned.refused)
                self.planned.append(cell)
            self._check_there()
        except ValueError as error:
            refuse(str(error))
        definition = None if self.expansion is None else self.expansion.definition
        stages = (RUN,) if definition is None else tuple(definition.stages)
        pairing = definition.pairing if definition else ITEMS
        reserve = definition.rates.reserve if definition else None
        arguments = of_the_sweep(self._arguments)
        studies: dict[Path, list[PlannedRun]] = defaultdict(list)  # nearly always one
        for cell in self.planned:
            assert cell.run is not None
            folder = cell.run.results_dir / cell.run.study
            if folder not in studies:
                check_folder(cell.run)
            studies[folder].append(cell.planned)
        for folder, runs in studies.items():
            try:
                self._write(folder, StudyPlan(experiment(), stages, tuple(runs), pairing, reserve, arguments))
            except ValueError as error:
                refuse(str(error))

    def _write(self, folder: Path, newer: StudyPlan) -> None:
        """Joins a plan with what was planned for the same study before."""
        older = None
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".study.lock", timeout=60):  # another sweep into this study plans its own runs
            with contextlib.suppress(ValueError):  # a torn plan is renewed
                older = read_plan(folder)
            if older and self.expansion:
                self.expansion.refuse_other_settings(older, self.planned)
            write_plan(folder, older.joined(newer) if older else newer)

    def _check_there(self) -> None:
        """Asks once for each model and dataset of the Hub, and whether rank and method fit the model's layers.

        Raises:
            ValueError: one of them cannot be had, or does not fit, on which every run would fail; one line.
        """
        for run in {run.run_id: run for run in self.runs}.values():
            try:
                run.model.check_there()
                run.task.check_there(run.trains)
                if misfit := refusal(run):
                    raise ValueError(misfit)
            except ValueError:
                if not RunFolder.of(run).done:  # which needs neither
                    raise

    def ended(self, run: Run) -> None:
        """Says how far the sweep is, when a run has ended."""
        text = self.countdown.ended(run, self.planned)
        if run.run.log != ERROR:
            self.countdown.show(text)

    def batches(self) -> Iterator[list[list[str]]]:
        """The overrides of the cells to launch, a stage at a time, without those that are done.

        When a batch has ended, those of its cells that another process held are launched once more, to wait for it.
        """
        for batch in self.expansion.batches(self.plan) if self.expansion else [self._cells]:
            left = [list(cell) for cell in batch if not RunFolder.of(self.compose(cell)).done]
            self.num_launched += len(left)
            if left:
                yield left
            folders = [RunFolder.of(self.compose(cell)) for cell in left]
            held = [not folder.done and is_held(folder.workspace) for folder in folders]
            if elsewhere := list(compress(left, held)):
                print(f"waiting for {len(elsewhere)} runs of another process", flush=True)
                self.num_launched += len(elsewhere)
                yield [[*cell, "run.when_running=wait"] for cell in elsewhere]
