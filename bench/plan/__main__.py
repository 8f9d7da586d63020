"""What an experiment file would do, before anything starts: `python -m bench.plan STUDY [key=value ...] [--json]`.

Says for each stage how many runs there are, which are done, what is refused and why, what waits for a learning rate,
and how long the rest will take (bench.plan.estimate). Takes the overrides that `bench.run` takes; starts and writes
nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.plan.overview import overview
from bench.plan.summary import Planner, entries, text
from bench.process.environment import quiet_environment


def main(arguments: Sequence[str] | None = None, planner: Planner = entries) -> int:
    """Prints the overview; exit status 2 with one line on stderr for what cannot be planned."""
    parser = argparse.ArgumentParser(prog="python -m bench.plan", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", help="an experiment, such as demo: experiments/STUDY.yaml")
    parser.add_argument("overrides", nargs="*", help="as bench.run takes them: key=value")
    parser.add_argument("--json", action="store_true", help="for machines")
    given = parser.parse_intermixed_args(arguments)
    quiet_environment()
    from bench.plan.estimate import estimator
    from bench.sweep.arguments import check_arguments, refuse

    if stray := [text for text in given.overrides if "=" not in text and not text.startswith("~")]:
        refuse(f"{stray[0]} is no override; write key=value")
    check_arguments([f"+experiments={given.study}", *given.overrides])
    try:
        cells = planner(given.study, given.overrides)
        results_dir = next((run.results_dir for _, run in cells if run is not None), Path("results"))
        found = overview(given.study, given.overrides, cells, estimator(results_dir))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(asdict(found), indent=1) if given.json else text(found))
    return 0


if __name__ == "__main__":
    gc.disable()  # a plan keeps what it makes to its end; looking for what it does not takes a fifth of the time
    sys.exit(main())
