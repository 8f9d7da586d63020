"""What a sweep would run, before anything starts: `python -m bench.plan STUDY [key=value ...] [--json]`.

Without STUDY, of what the overrides alone sweep over: `python -m bench.plan method=hu,lora_ga seed=0,1`.

Counts for each stage the runs, those that are done, those that are refused and why, and those that wait for a learning
rate, and estimates how long the rest takes (bench.plan.estimate). Takes the overrides that `bench.run` takes; starts
and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from bench.plan.gpus import GPUS, gpu_named
from bench.plan.overview import Planner, overview, planned_cells
from bench.plan.summary import text
from bench.process import command
from bench.process.places import RUNS


def main(arguments: Sequence[str] | None = None, planner: Planner = planned_cells) -> int:
    """The command line; returns the exit status, 2 for what cannot be planned."""
    parser = command.parser("plan", __doc__)
    parser.add_argument(
        "study", help="an experiment, such as demo: experiments/STUDY.yaml; or the first override of any sweep"
    )
    parser.add_argument("overrides", nargs="*", help="as bench.run takes them: key=value")
    parser.add_argument(
        "--gpu", help=f"plan for such GPUs, not for this machine: {', '.join(GPUS)}, or TFLOP/s and GiB as in 300x48"
    )
    parser.add_argument("--count", type=int, default=1, help="how many of them; a run on each")
    parser.add_argument("--json", action="store_true", help="for machines")
    return command.main(parser, lambda options: _print_plan(options, planner), arguments)


def _print_plan(options: argparse.Namespace, planner: Planner) -> None:
    from bench.plan.estimate import estimator
    from bench.sweep.arguments import check_arguments

    words = [options.study, *options.overrides]
    study = None if "=" in options.study else words.pop(0)
    if stray := [text for text in words if "=" not in text and not text.startswith("~")]:
        raise ValueError(f"{stray[0]} is no override; write key=value")
    gpu = None if options.gpu is None else gpu_named(options.gpu)
    if options.count < 1 or (options.count > 1 and gpu is None):
        raise ValueError(f"--count={options.count} is a number of GPUs from 1 on, which --gpu=NAME names")
    given = check_arguments([*(() if study is None else (f"+experiments={study}",)), *words])
    cells = planner(given)
    results_dir = next((cell.run.results_dir for cell in cells if cell.run is not None), RUNS)
    name = study or next((cell.run.study for cell in cells if cell.run is not None), "sweep")
    found = overview(name, given, cells, estimator(results_dir, gpu), gpu, options.count)
    print(json.dumps(asdict(found), indent=1) if options.json else text(found))


if __name__ == "__main__":
    sys.exit(main())
