"""How far a study is: `python -m bench.status STUDY`.

Which runs are done, running (where, since when, how far), failed (why), interrupted, or left by a process that is gone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from bench.process import command
from bench.process.redact import redacted
from bench.study.status import SHOWN, plain, status, text


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = command.parser("status", __doc__, study=True)
    parser.add_argument("--all", action="store_true", help=f"name every run, not {SHOWN} of a kind")
    parser.add_argument("--json", action="store_true", help="for machines")
    return command.main(parser, _print, arguments)


def _print(options: argparse.Namespace) -> None:
    found = status(options.results_dir, options.study)
    print(redacted(json.dumps(plain(found), indent=1) if options.json else text(found, options.all)))


if __name__ == "__main__":
    sys.exit(main())
