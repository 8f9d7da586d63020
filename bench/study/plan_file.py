"""What a study consists of: results/STUDY/study.json, written when its sweep starts and read by reports.

A run belongs to one or more stages (bench.sweep.expansion); its record does not say which, because the same run can
serve several. The file keeps for each planned run the overrides that make it, so that it can be run again by itself.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.process.files import write_whole
from bench.process.redact import redacted
from bench.runs.names import is_name
from bench.runs.record import RECORD

STUDY = "study.json"
RUN = "run"  # the one stage of a sweep without stages
SELECT = "select"  # the stage in which learning rates are chosen
RATE_KEY = "train.learning_rate="


class CorruptPlanError(ValueError):
    """A study.json that cannot be read."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a stage.

    Attributes:
        group: what makes a row of the study's table: the overrides common to all stages, without the seed.
        overrides: everything on the run's command line beside the experiment.
        run_id: None as long as its learning rate is not chosen.
        refused: why it cannot be run; None if it can.
    """

    stage: str
    group: tuple[str, ...]
    overrides: tuple[str, ...]
    run_id: str | None
    refused: str | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """What stays the same when another learning rate is chosen: outside the grid, all but the rate."""
        chosen = self.stage not in (SELECT, RUN)
        return (self.stage, *(text for text in self.overrides if not (chosen and text.startswith(RATE_KEY))))


@dataclass(frozen=True)
class StudyPlan:
    """All runs that sweeps into one study's folder have planned; `experiment` is None without an experiment file."""

    experiment: str | None
    stages: tuple[str, ...]
    runs: tuple[PlannedRun, ...]

    def command(self, run: PlannedRun) -> str:
        """The shell command that makes exactly this run."""
        experiment = [] if self.experiment is None else [f"+experiments={self.experiment}"]
        alone = [] if self.experiment is None else ["hydra.mode=RUN"]
        return shlex.join(["python", "-m", "bench.run", *experiment, *run.overrides, *alone])

    def of(self, stage: str) -> tuple[PlannedRun, ...]:
        """The runs of one stage."""
        return tuple(run for run in self.runs if run.stage == stage)

    def joined(self, newer: StudyPlan) -> StudyPlan:
        """This plan and a newer one of the same study; where both have a run, the newer says what it is."""
        stages = tuple(dict.fromkeys((*newer.stages, *self.stages)))
        runs = {run.key: run for run in (*self.runs, *newer.runs)}
        return replace(newer, stages=stages, runs=tuple(sorted(runs.values(), key=lambda r: stages.index(r.stage))))


def run_folders(folder: Path) -> list[Path]:
    """The folders of a study's runs that have a record, sorted; not the hidden ones of unfinished runs."""
    return sorted(path.parent for path in folder.glob(f"*/{RECORD}") if not path.parent.name.startswith("."))


def every_run_folder(results_dir: Path) -> list[Path]:
    """The same of all studies of a results folder; looks into no run's folder."""
    found = []
    for path, folders, files in os.walk(results_dir):
        if RECORD in files:
            found.append(Path(path))
        folders[:] = [] if RECORD in files else [name for name in folders if not name.startswith(".")]
    return sorted(found)


def read_plan(folder: Path) -> StudyPlan | None:
    """The plan of a study's folder; None where there is none.

    Raises:
        CorruptPlanError: study.json is torn or holds something else.
    """
    path = folder / STUDY
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        runs = tuple(_planned(run) for run in content["runs"])
        experiment, stages = content["experiment"], tuple(content["stages"])
        if not all(map(_is_text, (experiment, *stages))) or not isinstance(content["stages"], list):
            raise ValueError("experiment and stages are texts")
        if unknown := {run.stage for run in runs} - set(stages):
            raise ValueError(f"runs of stages that are not listed: {', '.join(sorted(unknown))[:100]}")
        return StudyPlan(experiment, stages, runs)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        said = (str(error).splitlines() or [""])[0][:200]
        raise CorruptPlanError(f"{path}: {type(error).__name__}: {said}; start the sweep again to renew it") from None


def _planned(run: dict[str, Any]) -> PlannedRun:
    """One run of the file.

    Raises:
        KeyError, TypeError, ValueError: it is none, or its run_id would lead out of the study's folder.
    """
    group, overrides = run["group"], run["overrides"]
    if not isinstance(group, list) or not isinstance(overrides, list) or run["stage"] is None:
        raise ValueError("a run is not what this version writes")
    if not all(map(_is_text, (run["stage"], *group, *overrides, run["refused"]))) or None in (*group, *overrides):
        raise ValueError("stage, group, overrides and refused of a run are texts")
    if run["run_id"] is not None and not is_name(run["run_id"]):
        raise ValueError(f"run_id={str(run['run_id'])[:100]!r} is no folder's name")
    return PlannedRun(run["stage"], tuple(group), tuple(overrides), run["run_id"], run["refused"])


def _is_text(value: object) -> bool:
    """A text that can be written again, so without lone surrogates; or None."""
    if not isinstance(value, str):
        return value is None
    value.encode()  # a UnicodeEncodeError is a ValueError
    return True


def write_plan(folder: Path, plan: StudyPlan) -> None:
    """Writes study.json as a whole, or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(asdict(run)) for run in plan.runs)  # a run a line: changes can be read
    head = json.dumps({"experiment": plan.experiment, "stages": plan.stages})[1:-1]
    write_whole(folder / STUDY, redacted(f'{{{head}, "runs": [\n{lines}\n]}}\n'))


def group_text(group: Sequence[str]) -> str:
    """A group in a line: "method=hu rank=r8"."""
    return " ".join(group)
