"""Hydra's side of launch=slurm; its settings are conf/launch/slurm.yaml."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher


class SlurmArrays(SlurmLauncher):
    """Hydra's launcher for Slurm, which waits for every job of a sweep whatever becomes of the others."""

    total = 0  # cells of the sweep that are known

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Called by the sweeper; how a cell went is in its record."""
        from bench.sweep import slurm

        self.total = initial_job_idx + len(job_overrides)
        slurm.launch(self, job_overrides, initial_job_idx, self.params)
        return [JobReturn(status=JobStatus.COMPLETED) for _ in job_overrides]

    def __call__(self, sweep_overrides: list[str], job_dir_key: str, job_num: int, *given: Any) -> Any:
        """One cell, in the process of a job; raises what the cell raised."""
        from bench.process.environment import quiet_environment
        from bench.sweep.guard import POSITION

        quiet_environment()
        os.environ[POSITION] = f"[{job_num + 1}/{self.total}]"
        return super().__call__(sweep_overrides, job_dir_key, job_num, *given).return_value

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled with a function of bench.sweep, whose import makes this class known in the job's process."""
        from bench.sweep import slurm

        return slurm.unpickled, (type(self), vars(self))
