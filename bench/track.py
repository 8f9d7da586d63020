"""The Weights & Biases mirror of a run; the files in the run's folder are the record."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from bench.record import ALL_LAYERS, COMPLETED, Record

if TYPE_CHECKING:
    from bench.measure import Row as AlignmentRow


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Track:
    """conf/track/*.yaml: offline writes files to sync later, online talks to a server, none does nothing."""

    mode: Literal["offline", "online", "none"]
    project: str


class Tracker:
    """Logs one run to Weights & Biases as it goes: the configuration, the curve, global alignment, the scores."""

    def __init__(self, settings: Track, folder: Path, run_id: str, study: str, config: dict[str, Any]) -> None:
        self._run = None
        self._completed = False
        self.sync_path: Path | None = None
        if settings.mode == "none":
            return
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            mode=settings.mode,
            project=settings.project,
            name=run_id,
            group=study,
            config=config,
            dir=str(folder),
            reinit="finish_previous",  # a run that failed in this process must not take the next one's rows
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True),
        )
        if settings.mode == "offline":
            self.sync_path = Path(self._run.dir).parent

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if kind is None and self._completed else 1)

    def log(self, row: dict[str, Any], alignment: list[AlignmentRow]) -> None:
        """One step: its row of the curve and, where measured, the alignment over all layers together."""
        if self._run is None:
            return
        values = {f"train/{key}": value for key, value in row.items() if key != "step"}
        for measured in alignment:
            if measured.layer == ALL_LAYERS and measured.value is not None:
                values[f"alignment/{measured.measure}"] = measured.value
        step = row["step"] if row else alignment[0].step
        self._run.log(values, step=step)

    def finish(self, record: Record) -> None:
        """The scores and what initialisation reports, in the run's summary."""
        self._completed = record.status == COMPLETED
        if self._run is None:
            return
        for score in record.scores:
            name = f"score/{score['task']}/{score['metric']}"
            self._run.summary.update({name: score["value"], f"{name}/stderr": score["stderr"]})
        kept = ("num_trainable", "logit_change", "calibration")
        self._run.summary.update({f"initialization/{key}": record.initialization.get(key) for key in kept})
        self._run.summary["status"] = record.status
