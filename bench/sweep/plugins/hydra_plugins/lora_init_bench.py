"""Hydra's side of sweeps in stages and of launch=process; Hydra takes both from the namespace hydra_plugins only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class StagedSweeper(BasicSweeper):
    """Launches one stage after another, each as a whole, with any launcher (bench.sweep.expansion)."""

    def __init__(self, params: Any, max_batch_size: int | None = None, **_stages: Any) -> None:
        super().__init__(max_batch_size, params)

    def sweep(self, arguments: list[str]) -> Any:
        """Called by Hydra; the command line's cells were composed and validated before (bench.sweep.guard.Guard)."""
        from bench.sweep import guard

        assert self.launcher is not None
        returns: list[Any] = []
        first = 0
        for batch in guard.batches():
            returns.append(self.launcher.launch(batch, initial_job_idx=first))
            for result in returns[-1]:
                _ = result.return_value  # raises what the job raised
            first += len(batch)
        return returns


class ProcessLauncher(Launcher):
    """A process for each cell (bench.sweep.process): as many at a time as there are GPUs, each with one of its own."""

    def __init__(self, jobs: int | None = None) -> None:
        self._jobs = jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra; the processes make everything anew."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Called by the sweeper."""
        from bench.sweep import guard

        return guard.launch_processes(job_overrides, initial_job_idx, self._jobs)
