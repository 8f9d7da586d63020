"""The Weights & Biases mirror of a run; the files in the run's folder are the record.

Nothing that W&B does can stop a run, and nothing that names a machine, a user or a folder is sent.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from bench.process.redact import redacted, without_secrets
from bench.process.validation import one_line
from bench.runs.progress import StoppedRunError
from bench.runs.record import ALL_LAYERS, COMPLETED, Record
from bench.runs.record_parts import TrainingFacts

if TYPE_CHECKING:
    import pandas as pd
    import wandb

    from bench.config import Run
    from bench.train.probe import Row as AlignmentRow

Mode = Literal["offline", "online"]

# Seconds that a command waits for a server, once each; W&B's own limits are 90 and none. A run's rows take two.
INIT_TIMEOUT, FINISH_TIMEOUT = 15.0, 60.0
OFFLINE_TIMEOUT = 90.0  # for W&B's own process to start, on a machine that is busy
LONGEST_TAG = 64  # W&B refuses a longer one
STEP = "train/step"
# Of the configuration: where this machine keeps things, and how the run is tracked.
_LOCAL = ("results_dir", "cache", "data", "track")

_failed: set[Mode] = set()  # modes that did not work in this process; later runs do not wait for them again


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Track:
    """conf/track/*.yaml: offline writes files to sync later, online talks to a server, none does nothing."""

    mode: Literal["offline", "online", "none"]
    project: str


def start(mode: Mode, folder: Path, **described: Any) -> wandb.Run:
    """Begins a W&B run whose files are written below folder/wandb.

    Args:
        mode: online or offline.
        folder: made if there is none.
        described: project, group, job_type, name and the like, as wandb.init takes them.
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # what it says of a server's silence, this module says once
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(
        silent=True,
        console="off",
        init_timeout=INIT_TIMEOUT if mode == "online" else OFFLINE_TIMEOUT,
        finish_timeout=FINISH_TIMEOUT,
        finish_timeout_raises=True,
        # What would name the machine, its user, its folders or what else is installed there.
        x_disable_stats=True,
        x_disable_meta=True,
        x_save_requirements=False,
        disable_git=True,
        save_code=False,
        host="",
    )
    # A run that failed in this process must not take the next one's rows.
    return wandb.init(mode=mode, dir=str(folder), reinit="finish_previous", settings=settings, **described)


def remove_logs(folder: Path) -> None:
    """Deletes W&B's own logs of a finished run: they name this machine's folders."""
    shutil.rmtree(folder / "logs", ignore_errors=True)


def log_report(
    mode: Mode, folder: Path, tables: Mapping[str, pd.DataFrame], files: Sequence[Path], **described: Any
) -> str:
    """Writes the report of a study as one W&B run of job type "report".

    Args:
        mode: offline writes files to sync later.
        folder: of the study.
        tables: by the name under which they are logged; None for what is missing.
        files: below the folder; they become an artifact, and the PNGs images too.
        described: name, group, project and config of the W&B run.

    Returns:
        The run's address, or the command that uploads it.
    """
    import wandb

    names = {path: path.relative_to(folder) for path in files}
    with start(mode, folder, job_type="report", **described) as run:
        for name, frame in tables.items():
            table = wandb.Table(columns=list(frame.columns), data=frame.to_numpy(), allow_mixed_types=True)
            run.log({name: table}, commit=False)
        images = {names[path].with_suffix("").as_posix(): path for path in files if path.suffix == ".png"}
        run.log({name: wandb.Image(str(path), caption=path.stem) for name, path in images.items()})
        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", f"report-{described['group']}"), type="report")
        for path in files:
            artifact.add_file(str(path), name=names[path].as_posix())
        run.log_artifact(artifact)
        written, url = Path(run.dir).parent, run.url
    remove_logs(written)
    return f"wandb sync {written}" if mode == "offline" else str(url)


class Tracker:
    """Logs one run to Weights & Biases: its configuration, curve, global alignment, and scores.

    If the server cannot be reached, or is lost, this and later runs of the process are tracked offline; if that does
    not work either, they are not tracked. Each is one warning a process.

    Args:
        cfg: the run; its study is the W&B run's group, its axes are tags. Nothing local of its configuration is sent.
        wandb_id: W&B's id of the run; the same id resumes the same W&B run.

    Attributes:
        sync_path: the folder that `wandb sync` is to upload; None if the server has all, or nothing was tracked.
    """

    def __init__(self, cfg: Run, wandb_id: str) -> None:
        self._run: wandb.Run | None = None
        self._mode: Mode = "offline"
        self._completed = False
        self._folder: Path | None = None
        self.sync_path: Path | None = None
        described = {
            "project": cfg.track.project,
            "name": cfg.run_id,
            "id": wandb_id,
            "group": cfg.study,
            "job_type": "train" if cfg.trains else "score",
            "tags": [tag[:LONGEST_TAG] for tag in dict.fromkeys(cfg.tags)],
            "config": shared_config(cfg.to_dict()),
        }
        modes: dict[str, tuple[Mode, ...]] = {"none": (), "offline": ("offline",), "online": ("online", "offline")}
        for mode in modes[cfg.track.mode]:
            if self._run is None and not _failed & {mode, "offline"}:
                self._begin(mode, cfg.results_dir / cfg.study, without_secrets(described))  # in its folder wandb/

    def _begin(self, mode: Mode, folder: Path, described: dict[str, Any]) -> None:
        try:
            run = start(mode, folder, **described, **({"resume": "allow"} if mode == "online" else {}))
            run.define_metric(STEP, hidden=True)
            for name in ("train/*", "alignment/*"):
                run.define_metric(name, step_metric=STEP)
            for name in ("tokens", "seconds"):  # to be chosen as the axis instead; they draw no chart
                run.define_metric(f"train/{name}", step_metric=STEP, hidden=True)
            for name in ("loss", "eval_loss"):
                run.define_metric(f"train/{name}", step_metric=STEP, summary="min,last")
            self._run, self._mode, self._folder = run, mode, Path(run.dir).parent
            self.sync_path = None if mode == "online" else self._folder
        except Exception as error:  # wandb's own, its service's, the folder's: none of them is the run's
            if mode == "online":
                import wandb

                with suppress(Exception):  # ends W&B's process, which continues to ask and has the run's id in use
                    wandb.teardown()
                os.environ.pop("WANDB_SERVICE", None)  # a parent's, which stays: the next run here gets its own
                for begun in folder.glob(f"wandb/run-*-{described['id']}"):
                    shutil.rmtree(begun, ignore_errors=True)  # which holds no row
            _give_up(mode, error)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        exit_code = 0 if (kind is None and self._completed) or kind is StoppedRunError else 1
        self._do(lambda run: run.finish(exit_code=exit_code))
        if self._folder is not None:
            remove_logs(self._folder)

    def log(self, row: dict[str, Any], alignment: list[AlignmentRow]) -> None:
        """One step: its row of the curve and, where measured, the alignment over all layers together."""
        values = {f"train/{key}": value for key, value in row.items()}
        for measured in alignment:
            if measured.layer == ALL_LAYERS and measured.value is not None:
                values[f"alignment/{measured.measure}"] = measured.value
        step = row["step"] if row else alignment[0].step
        self._do(lambda run: run.log(values | {STEP: step}, step=step))

    def finish(self, record: Record) -> None:
        """Writes the results into the W&B run's summary."""
        self._completed = record.status == COMPLETED
        self._do(lambda run: run.summary.update(summary(record)))

    def _do(self, call: Callable[[wandb.Run], Any]) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:  # as in `_begin`; what was written so far can be synced
            _give_up(self._mode, error)
            self._run, self.sync_path = None, self._folder


def summary(record: Record) -> dict[str, Any]:
    """The numbers of a run by which a table of runs can be sorted."""
    values: dict[str, Any] = {"status": record.status}
    for score in record.scores:
        name = f"score/{score.task}/{score.metric}"
        values |= {name: score.value, f"{name}/stderr": score.stderr}
    initialization = record.initialization.model_dump(exclude={"layers", "calibration_ids"})
    values |= {f"initialization/{key}": value for key, value in initialization.items()}
    values |= {f"final/{key}": value for key, value in (record.training or TrainingFacts()).model_dump().items()}
    retained = record.retention.model_dump() if record.retention else {}
    values |= {f"retention/{key}": value for key, value in retained.items()}
    values |= {f"seconds/{name}": phase.seconds for name, phase in record.phases.items()}
    if record.error is not None:  # its message may name a folder
        values |= {"error/type": record.error.type, "error/step": record.error.step}
    return values


def shared_config(config: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration without what is of this machine only; of an absolute path, the last part."""

    def without_folders(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_folders(one) for key, one in value.items()}
        if isinstance(value, list):
            return [without_folders(one) for one in value]
        return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value

    return {key: without_folders(value) for key, value in config.items() if key not in _LOCAL}


def _give_up(mode: Mode, error: Exception) -> None:
    if mode not in _failed:
        _failed.add(mode)
        does = {"online": "cannot be reached; runs of this command are tracked offline from here",
                "offline": "does not work; runs of this command are not tracked from here"}[mode]  # fmt: skip
        said = redacted(one_line(error))
        warnings.warn(f"W&B {does} ({type(error).__name__}: {said}); the record is kept", stacklevel=2)
