"""Sweeps in stages: learning rates are chosen on the validation split, then the test split is scored at those.

An experiment's hydra.sweeper has `params`, the axes common to all stages (their product gives the rows of the study's
table), `rates` (how each method's learning rate is searched), and `stages`, in order; conf/protocol/standard.yaml
explains them. A stage starts when the one before has ended, with any launcher, because its learning rates are read from
that one's records; the stages of the search go on in rounds, as long as their records name further rates.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.runs.record import COMPLETED, CorruptRecordError, Record, read_record
from bench.study.plan_file import PUBLISHED, RATE_KEY, SEARCH, SELECT, SHARED, TUNED, PlannedRun, StudyPlan
from bench.study.protocol import AUTO, RATE, Definition, StageCell, words
from bench.study.selection import Selection, select
from bench.sweep.compose import product
from bench.sweep.search import Search, Trial

if TYPE_CHECKING:
    from bench.config import Run

SEED = "seed"
_SOME_RATE = f"{RATE_KEY}1e-3"  # of a run that is composed for its other settings
# Keys that are left out of the command that reruns a cell: they change no result, or are given once for the command.
_OF_THE_COMMAND = ("cache", "hydra", "experiments", "run", "checkpoint", "launch")


@dataclass(frozen=True)
class PlannedCell:
    """A validated cell of a sweep.

    Attributes:
        planned: its entry in study.json.
        overrides: its whole command line.
        run: None if the cell is refused; with some learning rate if it waits for its own.
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
            every stage, but that of the seeds not where learning rates are chosen.
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
        self._searches: dict[tuple[str, ...], Search] = {}
        self._found: dict[str, Record] = {}  # by run id

    def groups(self) -> list[tuple[str, ...]]:
        """The rows of the table: the product of the common axes, without what `only` leaves out."""
        return [group for group in product(list(self._common.values())) if self._takes_part(group)]

    def cells(self, stage: str) -> Iterator[StageCell]:
        """The cells of one stage; of the search those that its records name so far, then what may follow."""
        rule = self.definition.stages[stage][RATE]
        for group in self.groups():
            if rule in (SEARCH, SELECT):
                trials = [] if _method(group) == "none" else self.search(group).trials
                yield from (cell for trial in trials if trial.stage == rule for cell in self._of_trial(group, trial))
                continue
            rate = self._rate(rule, group)
            waits = rule in (TUNED, SHARED) and rate is None and _method(group) != "none"
            yield from (StageCell(stage, group, own, rate, waits) for own in self._overrides(stage, group))

    def planned(self, stage: str) -> Iterator[PlannedCell]:
        """The cells of a stage, validated, those with equal runs once."""
        seen = set()
        for cell in self.cells(stage):
            overrides, told = cell.all_overrides, shown(cell.all_overrides)
            some = (_SOME_RATE,) if cell.waits and cell.learning_rate is None else ()
            try:
                run = self._compose((*overrides, *some))
            except ValueError as error:
                yield PlannedCell(PlannedRun(stage, cell.group, told, None, str(error)), overrides, None)
                continue
            if cell.waits or run.run_id not in seen:
                seen.add(run.run_id)
                planned = PlannedRun(stage, cell.group, told, None if cell.waits else run.run_id)
                yield PlannedCell(planned, overrides, run)

    def refuse_other_settings(self, older: StudyPlan, cells: Iterable[PlannedCell]) -> None:
        """Refuses rows that an earlier sweep had with other settings: their learning rates would be chosen together.

        Args:
            older: the study's plan before this sweep.
            cells: of this sweep.

        Raises:
            ValueError: naming the settings; one line.
        """
        before = {(run.stage, run.group): run for run in older.runs}
        for cell in cells:
            twin = before.get((cell.planned.stage, cell.planned.group))
            if twin is None or cell.run is None or self.definition.stages[twin.stage][RATE] == SEARCH:
                continue
            was, now = _settings(twin.overrides), _settings(cell.planned.overrides)
            kept = [text for text in cell.overrides if text not in now - was]
            some = [] if any(text.startswith(RATE_KEY) for text in kept) else [_SOME_RATE]
            if was != now and self._compose((*kept, *was - now, *some)).run_id != cell.run.run_id:
                there, here = (" ".join(sorted(own)) or "none of these" for own in (was - now, now - was))
                raise ValueError(
                    f"study {cell.run.study} has a sweep of other settings ({there}; here {here}), and the learning "
                    "rates of both would be chosen as one: give this one a study of its own, study=NAME"
                )

    def search(self, group: tuple[str, ...]) -> Search:
        """The search of a group's learning rate, as far as its records say."""
        if group not in self._searches:
            centre, method = self.definition.rates.centre, _method(group)
            if not isinstance(centre, str) and method not in centre:
                raise ValueError(f"hydra.sweeper.rates.centre has nothing for method={method}")
            around = None if isinstance(centre, str) else centre[method]
            self._searches[group] = Search(self.definition.rates, around, lambda trial: self._records(group, trial))
        return self._searches[group]

    def selection(self, group: tuple[str, ...]) -> Selection | None:
        """What the records of the search say of a group; None as long as one is missing."""
        if not self._is_searched(group) or not (found := self.search(group)).complete:
            return None
        records: dict[str, list[Record]] = {SEARCH: [], SELECT: []}
        for trial in found.trials:
            records[trial.stage] += self._records(group, trial) or []
        return select(group, records[SELECT], records[SEARCH])

    def _is_searched(self, group: tuple[str, ...]) -> bool:
        centre = self.definition.rates.centre
        return _method(group) != "none" and (isinstance(centre, str) or _method(group) in centre)

    def forget(self) -> None:
        """Drops what was read of records, because new ones may have come."""
        self._searches.clear()
        self._found = {run_id: record for run_id, record in self._found.items() if record.status == COMPLETED}

    def batches(self, plan: Callable[[], None]) -> Iterator[list[tuple[str, ...]]]:
        """The overrides of each stage's cells, when its turn has come: the records that it needs can be read then.

        Args:
            plan: called whenever learning rates have become known, so that the study's plan can be written.
        """
        for stage in self.definition.asked:
            yield from self._rounds(stage, plan)
        self.forget()
        plan()

    def _rounds(self, stage: str, plan: Callable[[], None]) -> Iterator[list[tuple[str, ...]]]:
        """The overrides of a stage's cells, and of those that their records name then, until these name no more."""
        launched: set[tuple[str, ...]] = set()
        while True:
            self.forget()
            plan()
            cells = list(self.planned(stage))
            searches = self.definition.stages[stage][RATE] in (SEARCH, SELECT)
            for cell in cells if not searches else ():
                if cell.waits:
                    print(f"{stage}: {' '.join(cell.planned.group)} has no learning rate yet: its search is not "
                          "complete, or no rate of it survived", file=sys.stderr)  # fmt: skip
            ready = [cell.overrides for cell in cells if cell.run is not None and not cell.waits]
            if not (new := [overrides for overrides in ready if overrides not in launched]):
                return
            launched |= set(new)
            yield new
            if not searches:
                return

    def _of_trial(self, group: tuple[str, ...], trial: Trial) -> list[StageCell]:
        """The cells of a trial, one for each seed of its stage; of a search only the first fit measures curvature."""
        stage = next((name for name, one in self.definition.stages.items() if one[RATE] == trial.stage), None)
        if stage is None:
            raise ValueError(f"hydra.sweeper.stages has no stage of rate: {trial.stage}, which the search needs")
        cells = []
        for overrides in self._overrides(stage, group):
            own = [] if trial.share == 1 else [f"train.max_steps={self._steps(overrides, trial.share)}"]
            own += ["measure.curvature_rows=0"] if trial.stage == SEARCH and trial.rate != AUTO else []
            cells.append(StageCell(stage, group, (*overrides, *own), trial.rate, trial.guessed))
        return cells

    def _steps(self, overrides: tuple[str, ...], share: float) -> int:
        return max(1, round(share * self._compose((*overrides, _SOME_RATE)).train.max_steps))

    def _overrides(self, stage: str, group: tuple[str, ...]) -> list[tuple[str, ...]]:
        """All but the learning rate of a group's cells in a stage; the command line's come last.

        Its seeds are those of scoring: rates that were chosen under the same would look better than they are.
        """
        settings = {key: _text(key, value) for key, value in self.definition.stages[stage].items() if key != RATE}
        searches = self.definition.stages[stage][RATE] in (SEARCH, SELECT)
        kept = {SEED: settings[SEED]} if searches and SEED in settings else {}
        axes = list((settings | self._given | kept).values())
        return [(*self._base, *group, *own) for own in product(axes)]

    def _records(self, group: tuple[str, ...], trial: Trial) -> list[Record] | None:
        """The records of a trial; None as long as one is missing."""
        records = []
        for cell in self._of_trial(group, trial):
            run = self._compose(cell.all_overrides)
            if run.run_id not in self._found:
                with suppress(CorruptRecordError):
                    self._found[run.run_id] = read_record(run.results_dir / run.study / run.run_id)
            if run.run_id not in self._found:
                return None
            records.append(self._found[run.run_id])
        return records

    def _rate(self, rule: str, group: tuple[str, ...]) -> float | None:
        """The learning rate of a group under a rule; None where there is none, or none yet."""
        if _method(group) == "none":
            return None
        if rule == PUBLISHED:
            if _method(group) not in self.definition.rates.published:
                raise ValueError(f"hydra.sweeper.rates.published has nothing for method={_method(group)}")
            return self.definition.rates.published[_method(group)]
        shared = self.definition.rates.shared
        if rule == SHARED and shared is None:
            raise ValueError("hydra.sweeper.rates.shared is missing: a number, or a method whose tuned rate all take")
        if rule == SHARED and not isinstance(shared, str):
            return shared
        chosen = self.selection(group if rule == TUNED else self._as_method(group, str(shared)))
        return chosen.vertex if chosen else None

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
    return tuple(_without_folder(text) for text in repeating(overrides))


def shown(overrides: Sequence[str]) -> tuple[str, ...]:
    """The same for a study's plan, which lies in the results folder and does not name it."""
    return tuple(text for text in portable(overrides) if _key(text) != "results_dir")


def _settings(overrides: Iterable[str]) -> set[str]:
    """Overrides but the seed and the learning rate."""
    return {text for text in overrides if not text.startswith((f"{SEED}=", RATE_KEY))}


def of_the_sweep(arguments: Sequence[str]) -> tuple[str, ...]:
    """The overrides of a sweep beside its experiment, for a study's plan: with them the same command goes on."""
    left_out = ("cache", "experiments", "results_dir", "run")
    return tuple(_without_folder(text) for text in arguments if _key(text).partition(".")[0] not in left_out)


def _key(text: str) -> str:
    return text.lstrip("+~").partition("=")[0]


def _without_folder(text: str) -> str:
    return f"{_key(text)}=FOLDER" if _names_a_folder(text) else text


def _names_a_folder(text: str) -> bool:
    """Whether an override gives a folder that other machines do not have."""
    key, value = _key(text), text.partition("=")[2].strip("'\" ")
    if key == "retention.text":
        return not value.startswith("package:")
    return key == "data.root" or (key == "results_dir" and value.startswith(("/", "~", "\\~")))
