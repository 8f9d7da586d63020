"""Hydra's side of the suite: what is refused before a sweep starts, and what is said when it has ended.

Hydra takes a mistyped key as a new one, a YAML list of sweep values as one value, and an experiment without -m as a
single run; each of these is an error here. A whole sweep is validated before its first run.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig

from bench.runs.folder import RunFolder
from bench.runs.names import study_folder
from bench.runs.state import may_be_running
from bench.study.plan_file import RUN, PlannedRun, StudyPlan, read_plan, write_plan
from bench.sweep import expansion as stages
from bench.sweep.arguments import refuse
from bench.sweep.compose import Composer
from bench.sweep.resolvers import ADHOC, build, experiment

if TYPE_CHECKING:
    from bench.config import Run

_planned: list[Run] = []  # of this process: what its sweep does
_waiting: list[PlannedRun] = []  # runs of later stages, whose learning rates are not known yet
_expanded: list[stages.Expansion] = []  # of a sweep in stages, whose cells Guard has composed
_cells: list[list[str]] = []  # of a sweep without stages: the overrides of each cell
_launched: list[list[str]] = []  # the cells that were not done before
_composer: list[Callable[[Sequence[str]], Run]] = []
_commands: dict[str, str] = {}  # by run id, the command line that makes exactly this run


def check_folder(run: Run) -> None:
    """Refuses a results folder that cannot be written, or a study that leads out of it, in one line."""
    from bench.runs.record import check_writable

    try:
        study_folder(run.results_dir, run.study)
        check_writable(run.results_dir)
    except ValueError as error:
        refuse(str(error))


def position() -> str:
    """Which run of how many, as "[3/21]"; "[1/1]" without a sweep."""
    hydra = HydraConfig.get()
    if given := _given_position():
        return given
    if hydra.mode is not RunMode.MULTIRUN:
        return "[1/1]"
    total = len(_launched)
    return f"[{hydra.job.num + 1}/{max(total, hydra.job.num + 1)}]" if total else f"[{hydra.job.num + 1}]"


def _given_position() -> str | None:
    """By the process that does the sweep, to one that does a cell of it."""
    from bench.sweep.process import POSITION

    return os.environ.get(POSITION)


def overrides() -> list[str]:
    """Of the run that Hydra is just starting, with the experiment."""
    return list(HydraConfig.get().overrides.task)


def command() -> str:
    """The command line that makes exactly this run, without what is of this machine only."""
    return _command(stages.described(overrides())[1])


def _command(shown: Sequence[str]) -> str:
    return StudyPlan(experiment(), (), ()).command(PlannedRun(RUN, (), tuple(shown), None))


def composer(config: DictConfig) -> Callable[[Sequence[str]], Run]:
    """From a cell's overrides to its run, composed once.

    Args:
        config: of the sweep, with its hydra node.
    """
    return Composer(config, build, lambda: experiment() or ADHOC)


def expansion(config: DictConfig, arguments: Sequence[str]) -> stages.Expansion:
    """The cells of an experiment with stages."""
    try:
        definition = stages.Definition.from_config(config.hydra.sweeper)
    except (ValueError, TypeError) as error:
        refuse(str(error))
    _composer[:] = [composer(config)]
    return stages.Expansion(definition, arguments, _composer[0])


def batches() -> Iterator[list[list[str]]]:
    """What the sweep that Guard has seen launches, a stage at a time; the study's plan is kept up with it.

    Cells that are done are left out. When a batch has been launched, those of its cells that another process had are
    launched once more, to wait for its end.
    """
    for batch in stages.batches(_expanded[0], lambda: _plan_stages(_expanded[0])) if _expanded else [_cells]:
        left = [cell for cell in batch if not RunFolder.of(_run_of(cell)).done]
        _launched.extend(left)
        if left:
            yield left
        if elsewhere := [cell for cell in left if may_be_running(RunFolder.of(_run_of(cell)))]:
            print(f"waiting for {len(elsewhere)} runs of another process", flush=True)
            _launched.extend(elsewhere)
            yield [[*cell, "run.when_running=wait"] for cell in elsewhere]


def _run_of(cell: Sequence[str]) -> Run:
    (compose,) = _composer
    return compose(cell)


def launch_processes(cells: Sequence[Sequence[str]], first: int, jobs: int | None) -> list[JobReturn]:
    """Does cells in processes of their own; for launch=process.

    Args:
        first: number of the first of them in the sweep.
        jobs: at a time; None: one a GPU.
    """
    from bench.sweep import process

    total = len(_launched)
    ended = process.launch(
        [(_run_of(cell), cell, f"[{first + place + 1}/{total}]") for place, cell in enumerate(cells)], jobs
    )
    return [
        JobReturn(overrides=cell, status=JobStatus.COMPLETED, _return_value=how)
        for cell, how in zip(cells, ended, strict=True)
    ]


def _plan_stages(expanded: stages.Expansion) -> None:
    """Expands every stage asked for, refuses what cannot be run, and writes the study's plan."""
    planned = [entry for stage in expanded.definition.asked for entry in _refusing(expanded.planned(stage))]
    _planned[:] = [run for one, _, run in planned if run is not None and one.run_id is not None]
    _waiting[:] = [one for one, _, _ in planned if one.run_id is None]
    _commands.update({one.run_id: _command(one.overrides) for one, _, _ in planned if one.run_id is not None})
    _write_plans([(one, run) for one, _, run in planned if run is not None], tuple(expanded.definition.stages))


def _refusing(planned: Iterator[Any]) -> Iterator[Any]:
    try:
        for one, cell, run in planned:
            if one.refused:
                refuse(one.refused)
            yield one, cell, run
    except ValueError as error:
        refuse(str(error))


def _write_plans(planned: Sequence[tuple[PlannedRun, Run]], names: tuple[str, ...]) -> None:
    """Into each study of the sweep (nearly always one), beside what was planned there before."""
    studies: dict[Path, list[PlannedRun]] = defaultdict(list)
    for one, run in planned:
        folder = run.results_dir / run.study
        if folder not in studies:
            check_folder(run)
        studies[folder].append(one)
    for folder, runs in studies.items():
        newer = StudyPlan(experiment(), names, tuple(runs))
        older = None
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".study.lock", timeout=60):  # another sweep into this study plans its own runs
            with contextlib.suppress(ValueError):  # a torn plan is renewed
                older = read_plan(folder)
            write_plan(folder, older.joined(newer) if older else newer)


class Guard(Callback):
    """Looks at a run or a whole sweep before it starts, and at its records when it has ended."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """A single run; Hydra would ignore an experiment's own axes, and its launcher, without a word."""
        given = {text.partition("=")[0] for text in config.hydra.overrides.task}
        if swept := [key for key in config.hydra.sweeper.params or {} if key not in given]:
            refuse(f"this experiment sweeps {', '.join(swept)}: add -m")
        if "launch=slurm" in config.hydra.overrides.task and _given_position() is None:
            refuse("launch=slurm submits the cells of a sweep: add -m")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Composes and validates every cell, so that a wrong one is known before hours have passed."""
        params = config.hydra.sweeper.params or {}
        for key, value in params.items():
            if isinstance(value, ListConfig):
                written = ",".join(map(str, value))
                refuse(f"hydra.sweeper.params.{key} is a list, which Hydra does not sweep; write {key}: {written}")
        arguments = list(config.hydra.overrides.task)
        if stages.is_staged(config.hydra.sweeper):
            _expanded[:] = [expansion(config, arguments)]
            _plan_stages(_expanded[0])
        else:
            _plan_cells(config, arguments)
        distinct = {run.run_id: run for run in _planned}
        done = sum(RunFolder.of(run).done for run in distinct.values())
        later = f", {len(_waiting)} wait for learning rates" if _waiting else ""
        print(f"{len(_planned)} cells, {len(distinct)} different runs, {done} done before{later}", flush=True)
        if hint := _hint(list(distinct.values())):
            print(hint, flush=True)


def cells_of(config: DictConfig, arguments: Sequence[str]) -> Iterator[tuple[PlannedRun, Run | None]]:
    """The cells of a sweep without stages, the product of all axes, validated; the run is None where it is refused."""
    loader = GlobalHydra.instance().config_loader()
    _composer[:] = [composer(config)]
    axes = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides([*axes, *arguments])
    (_cells[:],) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    for cell in _cells:
        try:
            run = _run_of(cell)
        except ValueError as error:
            yield PlannedRun(RUN, *stages.described(cell), None, str(error)), None
        else:
            yield PlannedRun(RUN, *stages.described(cell), run.run_id), run


def _plan_cells(config: DictConfig, arguments: Sequence[str]) -> None:
    """The same without stages; ends at the first cell that cannot be run."""
    planned = []
    for one, run in cells_of(config, arguments):
        if run is None:
            refuse(str(one.refused))
        planned.append((one, run))
    _planned[:] = [run for _, run in planned]
    _commands.update({run.run_id: _command(one.overrides) for one, run in planned})
    _write_plans(planned, (RUN,))


def _hint(runs: list[Run]) -> str | None:
    """What would spare a sweep calibrations: ranks that need different numbers of triplets do not share one."""
    widths: dict[str, set[int]] = {}
    for run in runs:
        if run.method.decomposes:
            needed = run.method.num_singular(run.rank.r)
            widths.setdefault(run.method_name, set()).add(max(run.svd.rank, needed))
    apart = sorted(name for name, found in widths.items() if len(found) > 1)
    if not apart:
        return None
    widest = max(max(widths[name]) for name in apart)
    return f"{', '.join(apart)}: some ranks need calibrations of their own; svd.rank={widest} lets all share one"


def finish() -> int:
    """Says what to upload, what failed and how to do it again, and what is left; returns the exit status.

    With a launcher that starts processes of its own, how runs ended is known from the records only.
    """
    from bench.runs import job
    from bench.runs.record import FAILED

    if job.offline:
        for folder in sorted({path.parent for path in job.offline}):
            count = sum(path.parent == folder for path in job.offline)
            print(f"{count} W&B runs were kept offline; to upload them: wandb sync {folder}/offline-run-*")
    failed, left = dict.fromkeys(job.failures, ""), []
    for run in {run.run_id: run for run in _planned}.values():
        record = RunFolder.of(run).record
        if record is not None and record.status == FAILED:
            failed[run.run_id] = f": {record.error}"
        elif record is None and run.run_id not in failed:
            left.append(run.run_id)
    if left:
        names = ", ".join(left[:MOST_NAMED]) + (", ..." if len(left) > MOST_NAMED else "")
        job.say(f"{len(left)} runs have not ended ({names}); the same command goes on with them", sys.stderr)
    if failed:
        job.say(f"{len(failed)} runs failed; each again, or all with the same command and {RETRY}:", sys.stderr)
    for run_id, why in failed.items():
        again = _commands.get(run_id)
        job.say(f"{run_id}{why}" + (f"\n    {again} {RETRY}" if again else ""), sys.stderr)
    return 1 if failed or left else 0


RETRY, MOST_NAMED = "run.retry_failed=true", 5
