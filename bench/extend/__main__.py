"""The earlier name of a sweeper key: `python -m bench.extend STUDY` runs the command that it is called now."""

from __future__ import annotations

import sys

from bench.run import main

if __name__ == "__main__":
    study, *overrides = sys.argv[1:] or ["STUDY"]
    arguments = ["-m", f"+experiments={study}", "hydra.sweeper.extend=4", *overrides]
    print(f"warning: bench.extend is called python -m bench.run {' '.join(arguments)} now", file=sys.stderr)
    sys.argv[1:] = arguments
    main()
