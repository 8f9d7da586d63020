"""Hydra's side of sweeps and of launch=workers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, nullcontext
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
        with closing(self.launcher) if isinstance(self.launcher, WorkersLauncher) else nullcontext():
            for batch in Sweep.current.batches():
                returns.append(self.launcher.launch(batch, initial_job_idx=first))
                for result in returns[-1]:
                    _ = result.return_value  # raises what the job raised
                first += len(batch)
        return returns


class WorkersLauncher(Launcher):
    """Cells side by side in processes that live for the sweep (bench.sweep.workers).

    Args:
        jobs: cells at a time; None: one a GPU, or one a core if there is none, as many as memory allows.
    """

    def __init__(self, jobs: int | None = None) -> None:
        from bench.sweep.arguments import refuse
        from bench.sweep.workers import Pool

        if jobs is not None and jobs < 1:
            refuse(f"hydra.launcher.jobs={jobs}: give a number of cells from 1, or null")
        self._pool = Pool(jobs)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra; a worker is sent composed cells."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Called by the sweeper; returns how each cell ended."""
        from bench.sweep import guard, workers
        from bench.sweep.sweep import Sweep

        sweep = Sweep.current
        assert sweep is not None
        cells = []
        for number, overrides in enumerate(job_overrides, initial_job_idx + 1):
            run = sweep.compose(overrides)
            origin = guard.origin(overrides, sweep.compose.config(overrides), run)
            cells.append(workers.Cell(run, f"[{number}/{sweep.num_launched}]", origin))
        return [
            JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=how)
            for overrides, how in zip(job_overrides, self._pool.launch(cells, sweep.ended), strict=True)
        ]

    def close(self) -> None:
        """Called by the sweeper when no cell is left."""
        self._pool.close()
