"""Hydra's side of sweeps and of launch=process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class StagedSweeper(Sweeper):
    """Launches the cells of bench.sweep.sweep, one stage after another, with any launcher."""

    def __init__(self, params: Any, **_stages: Any) -> None:
        """Takes hydra.sweeper, which the callback has read before (bench.sweep.guard)."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Called by Hydra; the cells were composed and validated before."""
        from bench.sweep.sweep import Sweep

        assert self.launcher is not None
        assert Sweep.current is not None
        returns: list[Any] = []
        first = 0
        for batch in Sweep.current.batches():
            returns.append(self.launcher.launch(batch, initial_job_idx=first))
            for result in returns[-1]:
                _ = result.return_value  # raises what the job raised
            first += len(batch)
        return returns


class ProcessLauncher(Launcher):
    """A process for each cell (bench.sweep.process): as many at a time as there are GPUs, each with one of its own.

    Args:
        jobs: cells at a time; None: one a GPU, or one if there is none.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self._jobs = jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra; the processes compose their own configurations."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Called by the sweeper; returns how each cell ended."""
        from bench.sweep import process
        from bench.sweep.sweep import Sweep

        sweep = Sweep.current
        assert sweep is not None
        cells = [
            (sweep.compose(overrides), overrides, f"[{number}/{sweep.num_launched}]")
            for number, overrides in enumerate(job_overrides, initial_job_idx + 1)
        ]
        ended = process.launch(cells, self._jobs)
        return [
            JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=how)
            for overrides, how in zip(job_overrides, ended, strict=True)
        ]
