"""The Weights & Biases mirror of a run; the files in the run's folder are the record.

Nothing that W&B does can stop a run, and nothing that names a machine, a user or a folder goes there.
"""

from __future__ import annotations

import os
import shutil
import uuid
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from bench.methods.find import method_class
from bench.process.redact import redacted, without_secrets
from bench.runs.record import ALL_LAYERS, COMPLETED, Record
from bench.runs.record_parts import TrainingFacts

if TYPE_CHECKING:
    import wandb

    from bench.train.probe import Row as AlignmentRow

Mode = Literal["offline", "online"]

# What a server may make a command wait for, once, in seconds; W&B's own limits are 90 and none. A run's rows take two.
INIT_TIMEOUT, FINISH_TIMEOUT = 15.0, 60.0
OFFLINE_TIMEOUT = 90.0  # for W&B's own process to start, on a machine that is busy
LONGEST_TAG = 64  # W&B refuses a longer one
STEP = "train/step"
# Of the configuration: where this machine keeps things, and how the run is tracked.
_LOCAL = ("results_dir", "cache", "data", "track")

# What has not worked in this process, which the other runs do not wait for; without offline nothing is tracked.
_lost: set[Mode] = set()


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Track:
    """conf/track/*.yaml: offline writes files to sync later, online talks to a server, none does nothing."""

    mode: Literal["offline", "online", "none"]
    project: str


def start(mode: Mode, folder: Path, **described: Any) -> wandb.Run:
    """Begins a W&B run whose files lie in folder/wandb.

    Args:
        mode: as in `Track`.
        folder: made where there is none.
        described: project, group, job_type, name and the like, as wandb.init takes them.
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # what it says of a server's silence, this module says once
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    return wandb.init(
        mode=mode,
        dir=str(folder),
        reinit="finish_previous",  # a run that failed in this process must not take the next one's rows
        settings=wandb.Settings(
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
        ),
        **described,
    )


def upload_path(run: wandb.Run) -> Path:
    """The folder of a run, which `wandb sync` takes."""
    return Path(run.dir).parent


def remove_logs(folder: Path) -> None:
    """Deletes W&B's own logs of a run that is finished: they name this machine's folders."""
    shutil.rmtree(folder / "logs", ignore_errors=True)


class Tracker:
    """Logs one run to Weights & Biases as it goes: the configuration, the curve, global alignment, the scores.

    Runs of a study are a group, and their axes are tags. A server that cannot be reached, or is lost, is one warning of
    the process: the run goes on offline, and so do the next ones. Any other error of W&B likewise, without tracking.
    """

    def __init__(
        self,
        settings: Track,
        folder: Path,
        run_id: str,
        study: str,
        config: dict[str, Any],
        wandb_id: str | None = None,
    ) -> None:
        """Begins the run, or goes on with it.

        Args:
            settings: whether and where to track.
            folder: of the study; W&B's files lie in its wandb/.
            run_id: the run's name.
            study: the group of its runs.
            config: the run's, of which nothing local is sent.
            wandb_id: W&B's own id of the run; the same again goes on with the same run.
        """
        self._run: wandb.Run | None = None
        self._completed = False
        self._folder: Path | None = None
        self._online = settings.mode == "online" and "online" not in _lost
        if settings.mode == "none" or "offline" in _lost:
            return
        described = {
            "project": settings.project,
            "name": run_id,
            "id": wandb_id or uuid.uuid4().hex[:12],
            "group": study,
            "job_type": "train" if _trains(config) else "score",
            "tags": tags(config),
            "config": shared_config(config),
        }
        if self._online:
            self._run = self._begun("online", folder, described | {"resume": "allow"})
        if self._run is None:
            self._run = self._begun("offline", folder, described)
        if self._run is not None:
            self._folder = upload_path(self._run)

    def _begun(self, mode: Mode, folder: Path, described: dict[str, Any]) -> wandb.Run | None:
        try:
            run = start(mode, folder, **without_secrets(described))
            _define_axes(run)
        except Exception as error:  # wandb's own, the service's, the folder's: none of them is the run's
            if mode == "online":
                for begun in folder.glob(f"wandb/run-*-{described['id']}"):
                    shutil.rmtree(begun, ignore_errors=True)  # which holds nothing
                _stop_service()
                self._went_offline(error)
            else:
                _give_up(error)
            return None
        return run

    @property
    def sync_path(self) -> Path | None:
        """What `wandb sync` is to upload; None where W&B has it, or has nothing."""
        return None if self._online else self._folder

    def _went_offline(self, error: Exception) -> None:
        """The files of the run stay, as those of an offline run."""
        self._online = False
        if "online" not in _lost:
            _lost.add("online")
            _warn("cannot be reached; this run and the next ones of this command are tracked offline", error)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        exit_code = 0 if kind is None and self._completed else 1
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
        """What the run came to, in the run's summary."""
        self._completed = record.status == COMPLETED
        self._do(lambda run: run.summary.update(summary(record)))

    def _do(self, call: Callable[[wandb.Run], Any]) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except TimeoutError as error:  # of uploading what is left; it has been written
            self._run = None
            self._went_offline(error)
        except Exception as error:  # as above
            self._run = None
            _give_up(error)


def summary(record: Record) -> dict[str, Any]:
    """The numbers of a run that a table of runs can be sorted by."""
    values: dict[str, Any] = {"status": record.status}
    for score in record.scores:
        name = f"score/{score.task}/{score.metric}"
        values |= {name: score.value, f"{name}/stderr": score.stderr}
    initialization = record.initialization.model_dump(exclude={"layers", "calibration_ids"})
    values |= {f"initialization/{key}": value for key, value in initialization.items()}
    values |= {f"final/{key}": value for key, value in (record.training or TrainingFacts()).model_dump().items()}
    values |= {f"seconds/{name}": phase.seconds for name, phase in record.phases.items()}
    if record.error is not None:  # its message may name a folder
        values |= {"error/type": record.error.type, "error/step": record.error.step}
    return values


def tags(config: dict[str, Any]) -> list[str]:
    """The axes of a run, those that apply to it: "hu", "r8", "gsm_tiny", "tiny_llama", "seed 0", "lr 0.01"."""
    method = _method(config)
    named = ["method"] + ["rank"] * hasattr(method, "factors") + ["task", "model"]
    found = [config[group]["name"] for group in named]
    if _trains(config):
        found += [f"seed {config['seed']}", f"lr {config['train']['learning_rate']:g}"]
    return [tag[:LONGEST_TAG] for tag in dict.fromkeys(found)]


def shared_config(config: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration without what is of this machine only; of an absolute path, the last part."""
    return {key: _without_folders(value) for key, value in config.items() if key not in _LOCAL}


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_folders(one) for one in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _method(config: dict[str, Any]) -> Any:
    return method_class(config["method"]["_target_"])


def _trains(config: dict[str, Any]) -> bool:
    return bool(_method(config).trains)


def _define_axes(run: wandb.Run) -> None:
    """Curves against the training step; tokens and seconds are there to be chosen instead, and draw no chart."""
    run.define_metric(STEP, hidden=True)
    run.define_metric("train/*", step_metric=STEP)
    run.define_metric("alignment/*", step_metric=STEP)
    for name in ("tokens", "seconds"):
        run.define_metric(f"train/{name}", step_metric=STEP, hidden=True)
    for name in ("loss", "held_out_loss"):
        run.define_metric(f"train/{name}", step_metric=STEP, summary="min,last")


def _stop_service() -> None:
    """Ends W&B's process: it goes on asking the server, and has the run's id in use meanwhile."""
    import wandb

    with suppress(Exception):  # a new one is started in any case
        wandb.teardown()
    os.environ.pop("WANDB_SERVICE", None)  # a parent's, which goes on: the next run here gets one of its own


def _give_up(error: Exception) -> None:
    """W&B's own process, or the folder, does not work."""
    if "offline" not in _lost:
        _lost.add("offline")
        _warn("does not work; this run and the next ones of this command go on without", error)


def _warn(what: str, error: Exception) -> None:
    text = redacted((str(error).splitlines() or [""])[0])
    warnings.warn(f"W&B {what} ({type(error).__name__}: {text}); the record is kept", stacklevel=2)
