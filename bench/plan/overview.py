"""An experiment's runs by stage: how many are done, to do, waiting or refused, and how long the rest will take."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.plan.gpus import Gpu, remedy
from bench.process.config_dirs import config_dir_words
from bench.runs.folder import RunFolder
from bench.runs.record import FAILED, INTERRUPTED
from bench.runs.state import DONE, RECORDED, RUNNING, STALE, STOPPED, state
from bench.study import selection
from bench.study.folders import CONF
from bench.study.plan_file import SELECT
from bench.sweep.capacity import capacity

if TYPE_CHECKING:
    from bench.config import Run
    from bench.plan.estimate import CostEstimate
    from bench.sweep.expansion import PlannedCell

Planner = Callable[[Sequence[str]], list["PlannedCell"]]
Estimator = Callable[["Run"], "CostEstimate"]
Key = tuple[str, ...]

TOTAL = "total"
# States beside those of bench.runs.state: failed and run again, without a learning rate yet, cannot be run.
RETRIED, WAITING, REFUSED = "retried", "waiting", "refused"
ENDED = (DONE, FAILED, REFUSED)  # never started by the command


@dataclass(frozen=True)
class Stage:
    """One row of the table.

    Attributes:
        cells: planned runs, the refused ones included; equal ones are counted each.
        runs: distinct runs.
        to_do: runs that the command would start now.
        failed: runs that failed before and are not started again unless run.retry_failed=true.
        retried: runs to do that failed before, with run.retry_failed=true.
        begun: runs to do that were interrupted, killed or stopped at a step, and resume from their checkpoints.
        running: runs to do that another process has at the moment; a sweep skips them.
        recorded: runs to do whose record is here without weights, such as a committed one.
        waiting: runs whose learning rate is not chosen yet.
        seconds: of the runs to do and the waiting ones; None if nothing is known of them.
        unknown: number of runs that `seconds` leaves out.
        peak_bytes: highest memory of any of those runs.
    """

    name: str
    cells: int
    runs: int
    done: int
    to_do: int
    failed: int
    retried: int
    begun: int
    running: int
    recorded: int
    waiting: int
    refused: int
    seconds: float | None
    unknown: int
    peak_bytes: int | None


@dataclass(frozen=True)
class Share:
    """The runs of one model and method that are left, as far as they are composed.

    Attributes:
        seconds: None if nothing is known of them.
        peak_bytes: highest memory of any of them.
        longest: seconds of the one that takes longest.
        remedy: where that is more than the GPU has, the overrides with which they fit; empty where there are none, and
            None where they fit.
    """

    model: str
    method: str
    runs: int
    seconds: float | None
    peak_bytes: int | None
    longest: float | None = None
    remedy: str | None = None


@dataclass(frozen=True)
class Refusal:
    """Why some cells cannot be run."""

    reason: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Overview:
    """What `python -m bench.plan` prints.

    Attributes:
        total: of all stages; a run that belongs to two of them is counted once.
        sources: what the estimates come from -> number of runs.
        edges: method and group of each grid of learning rates whose best one is its smallest or largest.
        at_a_time: how many of the runs that are left this machine does at a time, and why; None if none is left, or
            the study is planned for GPUs.
        command: starts the study.
        fitting: starts it without the methods that do not fit and with what makes the others fit; None where all do, or
            none does.
        gpu: name of the GPU that the study is planned for; None: this machine.
        num_gpus: how many of these.
        shares: the runs that are left by model and method.
    """

    study: str
    stages: tuple[Stage, ...]
    total: Stage
    refusals: tuple[Refusal, ...]
    sources: Mapping[str, int]
    edges: tuple[str, ...]
    at_a_time: str | None
    command: str
    gpu: str | None
    num_gpus: int
    shares: tuple[Share, ...]
    fitting: str | None = None


def planned_cells(arguments: Sequence[str]) -> list[PlannedCell]:
    """Composes and validates the cells of a sweep as it does; a refused one does not stop the others.

    Args:
        arguments: of the command line, +experiments=STUDY among them for an experiment.

    Raises:
        ValueError: the sweep cannot be composed, or a stage does not say how its learning rates are set.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode

    from bench.sweep.compose import as_given, reason
    from bench.sweep.sweep import Sweep

    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            loader = GlobalHydra.instance().config_loader()
            config = loader.load_configuration("config", [*arguments], RunMode.MULTIRUN)
            HydraConfig.instance().set_config(config)
            sweep = Sweep(config, as_given(config.hydra))
            return [_fitting(cell) for cell in sweep.cells()]
        except HydraException as error:
            raise ValueError(reason(error)) from None
        finally:
            HydraConfig.instance().cfg = None


def _fitting(cell: PlannedCell) -> PlannedCell:
    """The cell, refused if it does not fit a layer of its model, which validation does not know."""
    from bench.sweep.size import refusal

    if cell.run is not None and (reason := refusal(cell.run)) is not None:
        return replace(cell, planned=replace(cell.planned, run_id=None, refused=reason), run=None)
    return cell


def overview(
    study: str,
    arguments: Sequence[str],
    cells: Sequence[PlannedCell],
    estimator: Estimator,
    gpu: Gpu | None = None,
    num_gpus: int = 1,
) -> Overview:
    """Counts the cells of a sweep and estimates the runs that are left.

    Args:
        study: what the plan is called.
        arguments: of the command line that starts it.
        cells: of all stages, in order.
        estimator: called once for each run that is to be done.
        gpu: that the study is planned for; None: this machine.
        num_gpus: how many of these.
    """
    states: dict[Key, str] = {}
    estimates: dict[Key, CostEstimate | None] = {}  # of what is to be done; None: nothing is known
    stages: dict[str, list[Key]] = defaultdict(list)
    refused: dict[str, list[str]] = defaultdict(list)
    left: dict[Key, Run] = {}
    for cell in cells:
        planned = cell.planned
        key = (planned.run_id,) if planned.run_id else (planned.stage, *planned.overrides)
        stages[planned.stage].append(key)
        if planned.refused is not None:
            refused[planned.refused].append(f"{planned.stage}: {' '.join(planned.group)}")
        if key not in states:
            if cell.run is None or cell.waits:
                states[key] = WAITING if cell.waits else REFUSED
            else:
                states[key] = state(RunFolder.of(cell.run)).name
                if states[key] == FAILED and cell.run.run.retry_failed:
                    states[key] = RETRIED
            if states[key] not in ENDED:
                estimates[key] = estimator(cell.run) if cell.run is not None else None
                left |= {} if cell.run is None else {key: cell.run}
    rows = [_stage(name, keys, states, estimates) for name, keys in stages.items()]
    every = [key for keys in stages.values() for key in keys]
    shares = _shares(left, estimates, gpu)
    return Overview(
        study=study,
        stages=tuple(rows),
        total=_stage(TOTAL, every, states, estimates),
        refusals=tuple(Refusal(reason, tuple(cells)) for reason, cells in refused.items()),
        sources=dict(sorted(Counter(one.source for one in estimates.values() if one is not None).items())),
        edges=_edges(cells),
        at_a_time=str(capacity([*left.values()], None)) if left and gpu is None else None,
        command=_command(arguments),
        fitting=fitting_command(arguments, shares),
        gpu=None if gpu is None else gpu.name,
        num_gpus=num_gpus,
        shares=shares,
    )


def _command(arguments: Sequence[str]) -> str:
    return shlex.join(["python", "-m", "bench.run", *config_dir_words(), "-m", *arguments])


def fitting_command(arguments: Sequence[str], shares: Sequence[Share]) -> str | None:
    """The command for what fits on a GPU: one for all models, with the smallest of the batches that they need."""
    lost = {share.method for share in shares if share.remedy == ""}
    left = [share for share in shares if share.method not in lost]
    if not left or all(share.remedy is None for share in shares):
        return None
    remedies = [share.remedy for share in left if share.remedy]
    smallest = min(remedies, key=lambda text: int(text.partition("train.batch_size=")[2].split()[0]), default="")
    methods = dict.fromkeys(share.method.partition("+")[0] for share in left)
    kept = [text for text in arguments if not text.startswith("method=")] if lost else arguments
    return _command([*kept, *([f"method={','.join(methods)}"] if lost else []), *smallest.split()])


def _shares(
    left: Mapping[Key, Run], estimates: Mapping[Key, CostEstimate | None], gpu: Gpu | None
) -> tuple[Share, ...]:
    """The runs that are left by model and method, those that take longest first."""
    of: dict[tuple[str, str], list[Key]] = defaultdict(list)
    for key, run in left.items():
        of[run.model.name, run.start_name].append(key)
    found = []
    for (model, method), keys in of.items():
        known = {key: one for key in keys if (one := estimates[key]) is not None}
        seconds = [one.seconds for one in known.values() if one.seconds is not None]
        peaks = {key: one.peak_bytes for key, one in known.items() if one.peak_bytes is not None}
        total, peak = sum(seconds) if seconds else None, max(peaks.values(), default=None)
        share = Share(model, method, len(keys), total, peak, max(seconds, default=None))
        if gpu is not None and (largest := max(peaks, key=lambda key: peaks[key], default=None)) is not None:
            fits = peaks[largest] <= gpu.gib * 2**30
            share = share if fits else replace(share, remedy=remedy(left[largest], gpu.gib) or "")
        found.append(share)
    return tuple(sorted(found, key=lambda share: -(share.seconds or 0)))


def _stage(
    name: str, keys: Sequence[Key], states: Mapping[Key, str], estimates: Mapping[Key, CostEstimate | None]
) -> Stage:
    """Counts one stage from the keys of its cells, of which equal ones are the same run."""
    distinct = [key for key in dict.fromkeys(keys) if states[key] != REFUSED]
    counts = Counter(states[key] for key in distinct)
    left = [estimates[key] for key in distinct if key in estimates]
    seconds = [one.seconds for one in left if one is not None and one.seconds is not None]
    peaks = [one.peak_bytes for one in left if one is not None and one.peak_bytes is not None]
    return Stage(
        name=name,
        cells=len(keys),
        runs=len(distinct),
        done=counts[DONE],
        to_do=len(left) - counts[WAITING],
        failed=counts[FAILED],
        retried=counts[RETRIED],
        begun=counts[INTERRUPTED] + counts[STALE] + counts[STOPPED],
        running=counts[RUNNING],
        recorded=counts[RECORDED],
        waiting=counts[WAITING],
        refused=sum(states[key] == REFUSED for key in keys),
        seconds=sum(seconds) if seconds or not left else None,
        unknown=len(left) - len(seconds),
        peak_bytes=max(peaks, default=None),
    )


def _edges(cells: Sequence[PlannedCell]) -> tuple[str, ...]:
    """The groups whose grid is complete and whose best learning rate is its smallest or largest."""
    by_group: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for cell in cells:
        if cell.planned.stage == SELECT and cell.run is not None:
            by_group[cell.planned.group].append(cell.run)
    found = []
    for group, runs in by_group.items():
        records = [record for run in runs if (record := RunFolder.of(run).record) is not None]
        if len(records) == len(runs):
            chosen = selection.select(group, records)
            if chosen.at_edge and chosen.best:
                rate = chosen.best.learning_rate
                found.append(f"{chosen.method} ({' '.join(group)}; {chosen.at_edge} end, {rate:g})")
    return tuple(found)
