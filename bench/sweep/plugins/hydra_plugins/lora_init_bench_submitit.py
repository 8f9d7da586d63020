"""Hydra's side of bench.sweep.slurm; Hydra takes launchers from the namespace hydra_plugins only.

Their settings are in conf/launch; those of Slurm are as in hydra_plugins.hydra_submitit_launcher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


def _at_a_time() -> int:
    """${at_a_time:}, for launch=joblib."""
    from bench.sweep import slurm

    return slurm.at_a_time()


OmegaConf.register_new_resolver("at_a_time", _at_a_time, replace=True)


class _Submitit(Launcher):
    """What both have in common."""

    def __init__(self, **settings: Any) -> None:
        self.settings: dict[str, Any] = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in settings.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        from bench.sweep.slurm import Cell

        self.cell = Cell(config, hydra_context, task_function, Singleton.get_state())

    def cells(self, overrides: Sequence[Sequence[str]], first: int) -> list[tuple[list[str], int]]:
        """With their numbers in the sweep, whose number is known to be that of the last one or above."""
        self.cell = replace(self.cell, total=first + len(overrides))
        return [(list(cell), first + i) for i, cell in enumerate(overrides)]


class SubmititLocal(_Submitit):
    """Processes of this machine, as many at a time as it has GPUs, or cores where it has none."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Called by the sweeper."""
        from bench.sweep import slurm

        settings, cells = dict(self.settings), self.cells(job_overrides, initial_job_idx)
        return slurm.launch_here(self.cell, cells, settings, slurm.slots(settings.pop("jobs")))


class SubmititSlurm(_Submitit):
    """Arrays of Slurm."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Called by the sweeper."""
        from bench.sweep import slurm

        settings, cells = dict(self.settings), self.cells(job_overrides, initial_job_idx)
        return slurm.launch_array(self.cell, cells, settings, settings.pop("array_size"))
