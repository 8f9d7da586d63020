"""The command line `python -m bench.extend STUDY`: adds learning rates where the best one lies at its grid's end.

Runs the study's sweep with `hydra.sweeper.extend`: point after point beyond that end, until the best rate has a
neighbour on both sides or as many points as allowed were added; then the later stages at the rates chosen anew.
"""

from __future__ import annotations

import argparse
import sys

POINTS = 4  # two decades of the 1-3-10 series


def main() -> None:
    """Hands over to `bench.run`."""
    parser = argparse.ArgumentParser(prog="python -m bench.extend", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", help="an experiment with stages, such as lora_ga/llama2_tiny")
    parser.add_argument("--points", type=int, default=POINTS, help=f"at most so many for a method; default: {POINTS}")
    arguments, overrides = parser.parse_known_args()
    extended = f"hydra.sweeper.extend={arguments.points}"
    sys.argv[1:] = ["-m", f"+experiments={arguments.study}", extended, *overrides]
    from bench.run import main as run

    run()


if __name__ == "__main__":
    main()
