"""Every method with its paper, what it trains and needs, and how many parameters that is; no weights are read.

`python -m bench.methods [model=NAME] [rank=NAME] [key=value ...]` takes what `bench.run` takes.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from bench.process import command
from bench.study.folders import CONF
from bench.sweep import resolvers
from bench.sweep.arguments import check_arguments, choices

if TYPE_CHECKING:
    from bench.config import Run


def num_trainable(run: Run) -> int:
    """How many parameters a run trains, but for a head, counted on the meta device from the model's configuration.

    A method that shares ranks out among layers is counted with r in each.

    Raises:
        ValueError: the rank does not fit a layer.
    """
    import torch

    from bench.methods.base import AdapterMethod
    from bench.model import adapter

    model = run.model.skeleton(run.task.num_labels)
    layers = adapter.target_layers(model, run.model.target_modules)
    if isinstance(run.method, AdapterMethod):
        adapter.check_rank(layers, run.rank)
    with torch.device("meta"):
        trained, _ = adapter.add(model, run.method, run.rank, layers, run.adapter)
    return adapter.count_parameters(trained, trainable=True)[0]


def paper(run: Run) -> str:
    """The source that the method's module names in its first line, in parentheses."""
    opening = (sys.modules[type(run.method).__module__].__doc__ or "").partition("\n")[0]
    found = re.search(r"\((.*)\)", opening)
    return found.group(1) if found else "–"


def table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a method."""
    rows = []
    for run in runs:
        method = run.method
        rows.append(
            {
                "method": run.method_name,
                "label": method.label,
                "trains": " ".join(sorted(method.trains)) or "–",
                "needs": " ".join(sorted(method.requires)) or "–",
                "keeps the function": "yes" if method.keeps_function else "no",
                "parameters": f"{num_trainable(run):,}",
                "paper": paper(run),
            }
        )
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, 2 where the parameters of a method cannot be counted."""
    parser = command.parser("methods", __doc__)
    parser.add_argument("overrides", nargs="*", help="as bench.run takes them: model=NAME rank=NAME key=value")
    return command.main(parser, _print_table, arguments)


def _print_table(options: argparse.Namespace) -> None:
    from hydra import compose, initialize_config_dir

    overrides = check_arguments(options.overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = [compose("config", overrides=[*overrides, f"method={name}"]) for name in choices(CONF / "method")]
    runs = [resolvers.validated(config) for config in composed]
    aligned = ["left"] * 5 + ["right", "left"]
    print(table(runs).to_markdown(index=False, disable_numparse=True, colalign=aligned))
    rank = runs[0].rank
    print(f"\n{runs[0].model.name}, {', '.join(runs[0].model.target_modules or ['every linear layer'])}; r = {rank.r}")
