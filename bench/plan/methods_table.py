"""Lists every method with its paper, what it trains and needs, and its number of trained parameters; then every system.

`python -m bench.methods [model=NAME] [rank=NAME] [key=value ...]` takes the overrides that `bench.run` takes. It reads
no weights.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.process import command
from bench.study.folders import CONF
from bench.sweep import resolvers
from bench.sweep.arguments import check_arguments
from bench.sweep.choices import choices_of

if TYPE_CHECKING:
    from bench.config import Run
    from bench.methods.base import Method
    from bench.systems.base import System


def num_trainable(run: Run) -> int:
    """Number of parameters that a run trains, without a classification head; counted on the meta device.

    A method that gives each layer a rank of its own is counted with r in every layer.

    Raises:
        ValueError: the rank does not fit a layer.
    """
    import torch

    from bench.model import adapter
    from bench.model.layers import check_rank, target_layers

    model = run.model.skeleton(run.task.num_labels, run.cache)
    layers = target_layers(model, run.model.target_modules)
    if run.method.has_adapter:
        check_rank(layers, run.rank)
    with torch.device("meta"):
        trained, _ = adapter.add(model, run.method, run.rank, layers, run.adapter, system=run.system)
    return adapter.count_parameters(trained, trainable=True)[0]


def paper(plugin: Method | System) -> str:
    """The paper that the module of a method or system names in parentheses in its first line."""
    found = re.search(r"^.*?\((.*)\)", sys.modules[type(plugin).__module__].__doc__ or "")
    return found.group(1) if found else "–"


def table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row for the method of each run."""
    return pd.DataFrame(
        {
            "method": run.method_name,
            "label": run.method.label,
            "trains": " ".join(sorted(run.method.trains)) or "–",
            "needs": " ".join(sorted(run.method.requires)) or "–",
            "keeps the function": "yes" if run.method.keeps_function else "no",
            "parameters": f"{num_trainable(run):,}",
            "paper": paper(run.method),
        }
        for run in runs
    )


def systems_table(systems: Mapping[str, System], runs: Sequence[Run]) -> pd.DataFrame:
    """One row for each system, with the methods of these runs that it takes."""

    def takes(system: System, run: Run) -> bool:
        try:
            system.check(run.host)
        except ValueError:
            return False
        return True

    return pd.DataFrame(
        {
            "system": name,
            "label": system.label,
            "combines with": " ".join(run.method_name for run in runs if run.trains and takes(system, run)),
            "paper": paper(system),
        }
        for name, system in systems.items()
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, 2 where the parameters of a method cannot be counted."""
    parser = command.parser("methods", __doc__)
    parser.add_argument("overrides", nargs="*", help="as bench.run takes them: model=NAME rank=NAME key=value")
    return command.main(parser, _print_table, arguments)


def _print_table(options: argparse.Namespace) -> None:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from bench.systems.find import system_class

    # A rate, which nothing here depends on: some methods have none of their own for the model.
    overrides = ["train.learning_rate=1", *check_arguments(options.overrides)]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = [compose("config", overrides=[*overrides, f"method={name}"]) for name in choices_of("method")]
        named = {
            name: compose("config", overrides=[*overrides, f"system={name}"]).system
            for name in choices_of("system")
            if name != "none"
        }
    runs = [resolvers.validated(config) for config in composed]
    aligned = ["left"] * 5 + ["right", "left"]
    print(table(runs).to_markdown(index=False, disable_numparse=True, colalign=aligned))
    rank = runs[0].rank
    print(
        f"\n{runs[0].model.name}, {', '.join(runs[0].model.target_modules or ['every linear layer'])}; r = {rank.r}\n"
    )
    systems = {}
    for name, node in named.items():
        values: Any = OmegaConf.to_container(node, resolve=True)
        del values["name"]
        systems[name] = system_class(values.pop("_target_"))(**values)
    print(systems_table(systems, runs).to_markdown(index=False))
