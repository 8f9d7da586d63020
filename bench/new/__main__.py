"""Writes the first files of a method or task of your own, which run as written: `python -m bench.new method NAME`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.new.files import KINDS, write
from bench.process import command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, 2 if the name cannot be taken."""
    parser = command.parser("new", __doc__)
    parser.add_argument("kind", choices=KINDS, help="what to write")
    parser.add_argument("name", metavar="NAME", help="in snake case, such as my_init")
    parser.add_argument("--to", type=Path, default=Path(), metavar="DIR", help="your folder (default: this one)")
    return command.main(parser, _write, arguments)


def _write(options: argparse.Namespace) -> None:
    found = write(options.kind, options.name, options.to)
    print("written:", *(str(path) for path in found.paths), sep="\n  ")
    print("try:", *found.commands, sep="\n  ")


if __name__ == "__main__":
    sys.exit(main())
