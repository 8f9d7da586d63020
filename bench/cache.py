"""Lists calibrations, tokens and unpacked models kept for later runs, or deletes them: `python -m bench.cache`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.process import command, store


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = command.parser("cache", __doc__)
    parser.add_argument("--dir", type=Path, default=store.default_folder(), help="the folder (default: %(default)s)")
    parser.add_argument("--clear", action="store_true", help="delete every entry")
    return command.main(parser, _list_or_clear, arguments)


def _list_or_clear(options: argparse.Namespace) -> None:
    if options.clear:
        print(f"{store.clear(options.dir)} entries deleted from {options.dir}")
        return
    found = store.entries(options.dir)
    for entry in found:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        print(f"{entry.path.stem[:12]}  {used}  {entry.num_bytes / 1e6:9.1f} MB  {entry.title}")
    print(f"{len(found)} entries, {sum(entry.num_bytes for entry in found) / 1e6:.1f} MB in {options.dir}")


if __name__ == "__main__":
    sys.exit(main())
