"""The plan of a study: runs/STUDY/study.json, written when a sweep starts and read by reports and by `bench.status`.

A run belongs to one or more stages (bench.sweep.expansion); its record does not say to which, because the same run can
serve several. The plan holds the overrides of each run, from which it can be run again by itself.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter

from bench.process.config_dirs import config_dir_words
from bench.process.files import write_whole
from bench.process.places import RESULTS, RUNS
from bench.process.redact import redacted
from bench.process.validation import did_you_mean, one_line
from bench.runs.record import RECORD
from bench.runs.record_parts import FileName

STUDY = "study.json"
RUN = "run"  # the one stage of a sweep without stages
# Stages, by the rule that gives their learning rates: those that are tried, with small and with the full budget...
SEARCH, SELECT = "search", "select"
TUNED, SHARED, PUBLISHED = "tuned", "shared", "published"  # ...and those that are reported.
RATE_KEY = "train.learning_rate="
# What a study's comparisons pair: items only, or runs under one seed as well.
ITEMS: Final = "items"
SEEDS: Final = "seeds"


class CorruptPlanError(ValueError):
    """A study.json that cannot be read."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a stage.

    Attributes:
        group: the overrides that all stages share, without the seed; one group is one row of the study's table.
        overrides: all overrides of the run; with the experiment they are its command line.
        run_id: None until its learning rate is chosen.
        refused: why it cannot be run; None if it can.
    """

    stage: str
    group: tuple[str, ...]
    overrides: tuple[str, ...]
    run_id: FileName | None
    refused: str | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """Identifies the run among those of newer plans, where a chosen learning rate may be another one."""
        chosen = self.stage not in (SEARCH, SELECT, RUN)
        return (self.stage, *(text for text in self.overrides if not (chosen and text.startswith(RATE_KEY))))


@dataclass(frozen=True)
class StudyPlan:
    """All runs that sweeps into one study's folder have planned.

    Attributes:
        experiment: None without an experiment file.
        pairing: what comparisons pair, "items" or "seeds", as the study declared it.
        reserve: learning rates that the search of one method may have more than that of another; None in a plan from
            before that was stated.
        arguments: the newest sweep's own overrides, beside the experiment; none in a plan from before they were kept.
    """

    experiment: str | None
    stages: tuple[str, ...]
    runs: tuple[PlannedRun, ...]
    pairing: Literal["items", "seeds"] = "items"
    reserve: int | None = None
    arguments: tuple[str, ...] = ()

    def command(self, run: PlannedRun, results_dir: Path = RUNS, here: bool = False) -> str:
        """The shell command that runs exactly this run; it names a results folder other than the default one.

        Args:
            run: of this plan.
            results_dir: the folder of all studies.
            here: write the folders of --config-dir as they are on this machine, not as FOLDER.
        """
        experiment = [] if self.experiment is None else [f"+experiments={self.experiment}"]
        own = config_dir_words(None if here else "FOLDER")
        alone = [] if self.experiment is None else ["hydra.mode=RUN"]
        return shlex.join(["python", "-m", "bench.run", *own, *experiment, *run.overrides, *into(results_dir), *alone])

    def of(self, stage: str) -> tuple[PlannedRun, ...]:
        """The runs of one stage."""
        return tuple(run for run in self.runs if run.stage == stage)

    def joined(self, newer: StudyPlan) -> StudyPlan:
        """Joins this plan with a newer one, which replaces runs of equal key, and those of its rows that waited."""
        stages = tuple(dict.fromkeys((*newer.stages, *self.stages)))
        renewed = {(run.stage, run.group) for run in newer.runs}
        kept = [run for run in self.runs if run.run_id is not None or (run.stage, run.group) not in renewed]
        runs = replace(self, runs=tuple(kept))._by_key() | newer._by_key()
        ordered = sorted(chain.from_iterable(runs.values()), key=lambda run: stages.index(run.stage))
        return replace(newer, stages=stages, runs=tuple(ordered))

    def _by_key(self) -> dict[tuple[str, ...], list[PlannedRun]]:
        """The runs by key; cells that differ in data.root alone have the same."""
        found: dict[tuple[str, ...], list[PlannedRun]] = defaultdict(list)
        for run in dict.fromkeys(self.runs):
            found[run.key].append(run)
        return dict(found)


def into(results_dir: Path) -> list[str]:
    """The override that names a results folder; none for runs/, the default."""
    if results_dir == RUNS:
        return []
    plain = re.fullmatch(r"[\w./-]+", str(results_dir))
    return [f"results_dir={results_dir}" if plain else f'results_dir="{results_dir}"']


def run_folders(folder: Path) -> list[Path]:
    """The folders of a study's runs that have a record, sorted; hidden ones, of unfinished runs, are left out."""
    return sorted(path.parent for path in folder.glob(f"*/{RECORD}") if not path.parent.name.startswith("."))


def every_run_folder(results_dir: Path) -> list[Path]:
    """The folders of runs that have a record, of all studies in a results folder, sorted."""
    found = (path.parent for path in results_dir.rglob(RECORD))
    return sorted(path for path in found if "/." not in f"/{path.relative_to(results_dir).as_posix()}")


def no_study(results_dir: Path, name: str) -> str:
    """The message that there is no study of a name, with the likely one and those that there are."""
    roots = (RUNS, RESULTS) if results_dir == RUNS else (results_dir,)
    known = sorted({run.parent.relative_to(root).as_posix() for root in roots for run in every_run_folder(root)})
    there_are = f"there are: {', '.join(known) or 'none'}"
    return f"no study {name!r} in {' or '.join(map(str, roots))}{did_you_mean(name, known)}; {there_are}"


def read_plan(folder: Path) -> StudyPlan | None:
    """Reads study.json of a study's folder; None if there is none.

    Raises:
        CorruptPlanError: study.json is torn or holds something else.
    """
    path = folder / STUDY
    try:
        plan = TypeAdapter(StudyPlan).validate_json(path.read_bytes(), strict=True)
        if unknown := {run.stage for run in plan.runs} - set(plan.stages):
            raise ValueError(f"runs of stages that are not listed: {', '.join(sorted(unknown))}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CorruptPlanError(f"{path}: {one_line(error)[:200]}; start the sweep again to renew it") from None
    return plan


def write_plan(folder: Path, plan: StudyPlan) -> None:
    """Writes study.json as a whole, or not at all; secrets are redacted."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(asdict(run)) for run in plan.runs)  # a run a line: changes can be read
    about = asdict(replace(plan, runs=()))
    head = json.dumps({name: value for name, value in about.items() if name != "runs"})[1:-1]
    write_whole(folder / STUDY, redacted(f'{{{head}, "runs": [\n{lines}\n]}}\n'))
