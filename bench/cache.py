"""The command line `python -m bench.cache`: lists what calibration has left for later runs, or clears it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.init import store


def main(arguments: Sequence[str] | None = None) -> int:
    """Lists or clears the folder."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.cache", description="Lists what calibration has left for later runs."
    )
    parser.add_argument("--dir", type=Path, default=store.default_folder(), help="the folder (default: %(default)s)")
    parser.add_argument("--clear", action="store_true", help="delete every entry")
    options = parser.parse_args(arguments)
    if options.clear:
        print(f"{store.clear(options.dir)} entries deleted from {options.dir}")
        return 0
    found = store.entries(options.dir)
    for entry in found:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        print(f"{entry.path.stem[:12]}  {used}  {entry.num_bytes / 1e6:9.1f} MB  {entry.title}")
    print(f"{len(found)} entries, {sum(entry.num_bytes for entry in found) / 1e6:.1f} MB in {options.dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
