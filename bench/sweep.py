"""Hydra's side of the suite: what is refused before a sweep starts, and what is said when it has ended.

Hydra takes a mistyped key as a new one, a YAML list of sweep values as one value, and an experiment without -m as a
single run; each of these is an error here. A whole sweep is validated before its first run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench import experiments

if TYPE_CHECKING:
    from bench.config import Run

CONF = experiments.ROOT / "conf"
GROUPS = ("method", "rank", "task", "model", "train", "measure", "track")
KEYS = (*GROUPS, "seed", "study", "results_dir", "adapter", "svd", "cache", "data", "score", "hydra")

_planned: list[Run] = []


experiments.register()


def _by_method(table: DictConfig, *, _root_: DictConfig) -> Any:
    """${by_method:{hu: 1e-3, full_ft: 5e-5}}: what an experiment pairs with the method, such as its learning rate."""
    method = _root_.method.name
    if method not in table:
        raise ValueError(f"by_method has nothing for method={method}; it has {', '.join(map(str, table))}")
    return table[method]


OmegaConf.register_new_resolver("by_method", _by_method, replace=True)


def refuse(message: str) -> NoReturn:
    """One line on stderr, exit status 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def choices(folder: Path) -> list[str]:
    """The configurations of a folder, by the name that the command line gives them."""
    found = (path for path in folder.rglob("*.yaml") if not path.name.startswith("_"))  # _base is no choice
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in found)


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuses a command line with an unknown key or an unknown choice, before Hydra sees it."""
    texts = [text for text in arguments if not text.startswith("-") and ("=" in text or text.startswith("~"))]
    try:
        overrides = OverridesParser.create().parse_overrides(texts)
    except HydraException as error:
        refuse(str(error).splitlines()[0])
    for text, override in zip(texts, overrides, strict=True):
        key = override.key_or_group
        if override.is_sweep_override():
            values = [str(value) for value in override.sweep_string_iterator()]
        else:
            value = override.value()
            values = [str(v) for v in value] if isinstance(value, list) else [str(value)]
        if key == "experiments":
            _check_experiments(text, values, added=override.is_add())
        elif key in GROUPS:
            _check_choices(key, values)
        elif key.split(".")[0].split("/")[0] not in KEYS:
            refuse(f"{text}: nothing reads {key}; known are {', '.join(KEYS)}, and +experiments=NAME")


def _check_choices(group: str, values: list[str]) -> None:
    known = choices(CONF / group)
    for value in values:
        if value not in known:
            hint = f"; say {group}=r{value}" if f"r{value}" in known else ""
            refuse(f"{group}={value} does not exist{hint}; choose from {', '.join(known)}")


def _check_experiments(text: str, values: list[str], added: bool) -> None:
    folder = experiments.folder()
    if folder is None:
        refuse(f"{text}: there is no folder experiments/ here ({Path.cwd()}) or beside the package")
    known = choices(folder)
    for value in values:
        if value not in known:
            refuse(f"experiments={value} does not exist in {folder}; choose from {', '.join(known)}")
    if not added:
        refuse(f"{text}: an experiment is added, not replaced: +{text}")


def validated(config: DictConfig) -> Run:
    """The typed run of a composed configuration; what cannot be run is refused in one line."""
    from bench.config import Run

    try:
        if missing := OmegaConf.missing_keys(config):
            refuse(", ".join(f"{key} is missing: give {key}=VALUE" for key in sorted(missing)))
        values: Any = OmegaConf.to_container(config, resolve=True)
        values["study"] = values["study"] or _experiment() or "adhoc"
        run = Run.from_config(values)
        _ = run.run_id  # reads the model's folder
    except (ValueError, OmegaConfBaseException) as error:
        refuse(str(error).splitlines()[0])
    return run


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
    return f"[{hydra.job.num + 1}/{len(_planned)}]" if _planned else f"[{hydra.job.num + 1}]"


class Guard(Callback):
    """Looks at a run or a whole sweep before it starts, and at its records when it has ended."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """A single run; an experiment's sweep would be ignored by Hydra without a word."""
        if config.hydra.sweeper.params:
            refuse(f"this experiment sweeps {', '.join(config.hydra.sweeper.params)}: add -m")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Composes and validates every cell, so that a wrong one is known before hours have passed."""
        from bench.record import RunFolder

        params = config.hydra.sweeper.params or {}
        for key, value in params.items():
            if isinstance(value, ListConfig):
                written = ",".join(map(str, value))
                refuse(f"hydra.sweeper.params.{key} is a list, which Hydra does not sweep; write {key}: {written}")
        loader = GlobalHydra.instance().config_loader()
        arguments = [f"{key}={value}" for key, value in params.items()] + list(config.hydra.overrides.task)
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(arguments)
        (cells,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
        for cell in cells:
            try:
                composed = loader.load_sweep_config(config, list(cell))
            except HydraException as error:
                refuse(" ".join(str(error).split()))
            HydraConfig.instance().set_config(composed)
            with_hydra = composed.copy()
            OmegaConf.set_readonly(with_hydra, False)
            OmegaConf.set_struct(with_hydra, False)
            del with_hydra["hydra"]
            _planned.append(validated(with_hydra))
        check_folder(_planned[0])
        distinct = {run.run_id: run for run in _planned}
        done = sum(RunFolder(run.results_dir, run.study, run.run_id).done for run in distinct.values())
        print(f"{len(_planned)} cells, {len(distinct)} different runs, {done} done before", flush=True)
        if hint := _hint(list(distinct.values())):
            print(hint, flush=True)


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
