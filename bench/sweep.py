"""Hydra's side of the suite: what is refused before a sweep starts, and what is said when it has ended.

Hydra takes a mistyped key as a new one, a YAML list of sweep values as one value, and an experiment without -m as a
single run; each of these is an error here. A whole sweep is validated before its first run.
"""

from __future__ import annotations

import contextlib
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench import experiments, stages
from bench.arguments import refuse
from bench.study import RUN, PlannedRun, StudyPlan, read_plan, write_plan

if TYPE_CHECKING:
    from bench.config import Run

LATE = ("seed=", "train.learning_rate=")
_planned: list[Run] = []  # of this process: what its sweep does
_waiting: list[PlannedRun] = []  # runs of later stages, whose learning rates are not known yet
_expanded: list[stages.Expansion] = []  # of a sweep in stages, whose cells Guard has composed


experiments.register()
stages.register()


def _by(group: str) -> Callable[..., Any]:
    """${by_method:{hu: 1e-3, full_ft: 5e-5}}: what an experiment pairs with a choice, such as a learning rate."""

    def chosen(table: DictConfig, *, _root_: DictConfig) -> Any:
        name = _root_[group].name
        if name not in table:
            raise ValueError(f"by_{group} has nothing for {group}={name}; it has {', '.join(map(str, table))}")
        return table[name]

    return chosen


for _group in ("method", "rank", "task", "model"):
    OmegaConf.register_new_resolver(f"by_{_group}", _by(_group), replace=True)


def _scaling(of_the_paper: str, *, _root_: DictConfig) -> str:
    """${scaling:alpha_over_r} in conf/method: adapter.scaling, the same for all methods, or else the paper's."""
    return _root_.adapter.scaling or of_the_paper


OmegaConf.register_new_resolver("scaling", _scaling, replace=True)


def build(config: DictConfig) -> Run:
    """The typed run of a composed configuration.

    Raises:
        ValueError: it cannot be run; the message is one line.
    """
    from bench.config import Run

    if missing := OmegaConf.missing_keys(config):
        raise ValueError(", ".join(f"{key} is missing: give {key}=VALUE" for key in sorted(missing)))
    try:
        values: Any = OmegaConf.to_container(config, resolve=True)
        values["study"] = values["study"] or _experiment() or "adhoc"
        run = Run.from_config(values)
        _ = run.run_id  # reads the model's folder
    except (ValueError, OmegaConfBaseException) as error:
        raise ValueError(str(error).splitlines()[0]) from None
    return run


def validated(config: DictConfig) -> Run:
    """The same; what cannot be run is refused."""
    try:
        return build(config)
    except ValueError as error:
        refuse(str(error))


def check_folder(run: Run) -> None:
    """Refuses a results folder that cannot be written, in one line."""
    from bench.record import check_writable

    try:
        check_writable(run.results_dir)
    except ValueError as error:
        refuse(str(error))


def _experiment() -> str | None:
    chosen = HydraConfig.get().runtime.choices.get("experiments") if HydraConfig.initialized() else None
    return None if chosen is None else str(chosen).strip("[]").replace(", ", "+").replace("'", "")


def position() -> str:
    """Which run of how many, as "[3/21]"; "[1/1]" without a sweep."""
    hydra = HydraConfig.get()
    if hydra.mode is not RunMode.MULTIRUN:
        return "[1/1]"
    total = len(_planned) + len(_waiting)
    return f"[{hydra.job.num + 1}/{max(total, hydra.job.num + 1)}]" if total else f"[{hydra.job.num + 1}]"


def composer(config: DictConfig) -> Callable[[Sequence[str]], Run]:
    """From a cell's overrides to its run, composed once.

    Args:
        config: of the sweep, with its hydra node.
    """
    loader = GlobalHydra.instance().config_loader()
    parser = OverridesParser.create()
    composed: dict[tuple[str, ...], tuple[DictConfig, DictConfig]] = {}
    known: dict[tuple[str, ...], Run] = {}

    def compose(overrides: Sequence[str]) -> Run:
        key = tuple(overrides)
        if key in known:
            return known[key]
        # Cells that differ in these alone are composed once: Hydra takes a quarter of a second for each.
        late = tuple(text for text in key if text.startswith(LATE))
        early = tuple(text for text in key if text not in late)
        try:
            if early not in composed:
                composed[early] = _without_hydra(loader.load_sweep_config(config, list(early)))
            with_hydra, plain = composed[early]
            HydraConfig.instance().set_config(with_hydra)
            plain = plain.copy()
            for override in parser.parse_overrides(list(late)):
                OmegaConf.update(plain, override.key_or_group, override.value())
        except HydraException as error:
            raise ValueError(" ".join(str(error).split())) from None
        known[key] = build(plain)
        return known[key]

    return compose


def _without_hydra(composed: DictConfig) -> tuple[DictConfig, DictConfig]:
    """A composed configuration, and the part of it that is the run's."""
    plain = composed.copy()
    OmegaConf.set_readonly(plain, False)
    OmegaConf.set_struct(plain, False)
    del plain["hydra"]
    return composed, plain


def expansion(config: DictConfig, arguments: Sequence[str]) -> stages.Expansion:
    """The cells of an experiment with stages."""
    try:
        definition = stages.Definition.from_config(config.hydra.sweeper)
    except (ValueError, TypeError) as error:
        refuse(str(error))
    return stages.Expansion(definition, arguments, composer(config))


def batches() -> Iterator[list[list[str]]]:
    """What the sweep in stages that Guard has seen launches, a stage at a time; the study's plan is kept up with it."""
    (expanded,) = _expanded
    return stages.batches(expanded, lambda: _plan_stages(expanded))


def _plan_stages(expanded: stages.Expansion) -> None:
    """Expands every stage asked for, refuses what cannot be run, and writes the study's plan."""
    planned = [entry for stage in expanded.definition.asked for entry in _refusing(expanded.planned(stage))]
    _planned[:] = [run for one, _, run in planned if run is not None and one.run_id is not None]
    _waiting[:] = [one for one, _, _ in planned if one.run_id is None]
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
        check_folder(run)
        studies[run.results_dir / run.study].append(one)
    for folder, runs in studies.items():
        newer = StudyPlan(_experiment(), names, tuple(runs))
        older = None
        with contextlib.suppress(ValueError):  # a torn plan is renewed
            older = read_plan(folder)
        write_plan(folder, older.joined(newer) if older else newer)


class Guard(Callback):
    """Looks at a run or a whole sweep before it starts, and at its records when it has ended."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """A single run; an experiment's sweep over what is not given would be ignored by Hydra without a word."""
        given = {text.partition("=")[0] for text in config.hydra.overrides.task}
        if swept := [key for key in config.hydra.sweeper.params or {} if key not in given]:
            refuse(f"this experiment sweeps {', '.join(swept)}: add -m")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Composes and validates every cell, so that a wrong one is known before hours have passed."""
        from bench.record import RunFolder

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
        done = sum(RunFolder(run.results_dir, run.study, run.run_id).done for run in distinct.values())
        later = f", {len(_waiting)} wait for learning rates" if _waiting else ""
        print(f"{len(_planned)} cells, {len(distinct)} different runs, {done} done before{later}", flush=True)
        if hint := _hint(list(distinct.values())):
            print(hint, flush=True)


def cells_of(config: DictConfig, arguments: Sequence[str]) -> Iterator[tuple[PlannedRun, Run | None]]:
    """The cells of a sweep without stages, the product of all axes, validated; the run is None where it is refused."""
    loader, compose = GlobalHydra.instance().config_loader(), composer(config)
    axes = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides([*axes, *arguments])
    (cells,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    for cell in cells:
        try:
            run = compose(cell)
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
    _write_plans(planned, (RUN,))


def _hint(runs: list[Run]) -> str | None:
    """What would spare a sweep calibrations: ranks that need different numbers of triplets do not share one."""
    from bench.methods.base import SpectralMethod

    widths: dict[str, set[int]] = {}
    for run in runs:
        if isinstance(run.method, SpectralMethod) and run.method.decomposes:
            needed = run.method.num_singular(run.rank.r)
            widths.setdefault(run.method_name, set()).add(max(run.svd.rank, needed))
    apart = sorted(name for name, found in widths.items() if len(found) > 1)
    if not apart:
        return None
    widest = max(max(widths[name]) for name in apart)
    return f"{', '.join(apart)}: some ranks need calibrations of their own; svd.rank={widest} lets all share one"


def finish() -> int:
    """Says what to upload and what failed; returns the exit status.

    With a launcher that starts processes of its own, what failed is known from the records only.
    """
    from bench import job
    from bench.record import FAILED, CorruptRecordError, read_record

    failed = set(job.failures)
    for run in _planned:
        folder = run.results_dir / run.study / run.run_id
        try:
            failed |= {run.run_id} if read_record(folder).status == FAILED else set()
        except CorruptRecordError:
            failed.add(run.run_id)
    if job.offline:
        for folder in sorted({path.parent for path in job.offline}):
            count = sum(path.parent == folder for path in job.offline)
            print(f"{count} W&B runs were kept offline; to upload them: wandb sync {folder}/offline-run-*")
    if failed:
        print(f"{len(failed)} runs failed: {', '.join(sorted(failed))}", file=sys.stderr)
    return 1 if failed else 0
