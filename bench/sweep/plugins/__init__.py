"""Hydra's plugins of this package: the sweeper hydra/sweeper=staged, and the launchers of conf/launch."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins


def register() -> None:
    """Adds them to Hydra, which takes plugins from the namespace hydra_plugins only."""
    folder = str(Path(__file__).parent)
    if folder not in sys.path:
        sys.path.append(folder)  # its hydra_plugins is a part of that namespace
    from hydra_plugins import lora_init_bench

    found: list[Any] = [lora_init_bench.StagedSweeper, lora_init_bench.WorkersLauncher]
    if find_spec("hydra_plugins.hydra_submitit_launcher"):
        from hydra_plugins.lora_init_bench_slurm import SlurmArrays

        found.append(SlurmArrays)
    for plugin in found:
        Plugins.instance().register(plugin)
    node: dict[str, Any] = {"_target_": "hydra_plugins.lora_init_bench.StagedSweeper", "params": {}}
    ConfigStore.instance().store(group="hydra/sweeper", name="staged", node=node, provider="lora-init-bench")
