"""Hydra's side of sweeps in stages; Hydra takes sweepers from the namespace hydra_plugins only."""

from __future__ import annotations

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class StagedSweeper(BasicSweeper):
    """Launches one stage after another, each as a whole, with any launcher (bench.stages)."""

    def __init__(self, params: Any, max_batch_size: int | None = None, **_stages: Any) -> None:
        super().__init__(max_batch_size, params)

    def sweep(self, arguments: list[str]) -> Any:
        """Called by Hydra; the command line's cells were composed and validated before (bench.sweep.Guard)."""
        from bench import sweep

        assert self.launcher is not None
        returns: list[Any] = []
        first = 0
        for batch in sweep.batches():
            returns.append(self.launcher.launch(batch, initial_job_idx=first))
            for result in returns[-1]:
                _ = result.return_value  # raises what the job raised
            first += len(batch)
        return returns
