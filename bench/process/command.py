"""What the command lines share: the parser, quiet libraries, and one line on stderr for what is refused.

def main(arguments: Sequence[str] | None = None) -> int:
    parser = command.parser("status", __doc__, study=True)
    parser.add_argument("--json", action="store_true", help="for machines")
    return command.main(parser, _print_status, arguments)  # _print_status(options) prints; may return a status

if __name__ == "__main__":
    sys.exit(main())
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.process.config_dirs import add_config_dir, add_option
from bench.process.environment import quiet_environment
from bench.process.places import located
from bench.process.redact import redacted


def parser(name: str, doc: str | None, *, study: bool = False) -> argparse.ArgumentParser:
    """The parser of `python -m bench.NAME` with --config-dir, to which the caller adds its own arguments.

    Args:
        name: of the command, without "bench.".
        doc: the docstring of its module, whose first line, without ": `python -m ...`", becomes the description.
        study: add the argument `study` and the option `--results-dir`.
    """
    description = (doc or "").partition("\n")[0].partition(": `python")[0]
    made = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=description)
    add_option(made)
    if study:
        made.add_argument("study", help="its name, such as demo, or its folder, such as runs/demo")
        made.add_argument("--results-dir", type=Path, help="default: runs, or results if only that has the study")
    return made


def main(
    parser: argparse.ArgumentParser,
    call: Callable[[argparse.Namespace], int | None],
    arguments: Sequence[str] | None = None,
) -> int:
    """Parses a command line, calls, and returns the exit status.

    Args:
        parser: made by `parser`; options may stand between the words of a positional argument.
        call: does what the command is for; the exit status is what it returns, None being 0. A ValueError or OSError
            that it raises is printed as "error: ..." on stderr, without secrets, and the exit status is 2.
        arguments: words of the command line; None: those of this process.
    """
    options = parser.parse_intermixed_args(arguments)
    quiet_environment()
    try:
        for folder in options.config_dir:
            add_config_dir(folder)
        if "study" in options:
            place, options.study = located(options.study, vars(options).get("results_dir"))
            options.results_dir = place
        status = call(options) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `| head` has read what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return 0
    except (ValueError, OSError) as error:
        print(f"error: {redacted(str(error))}", file=sys.stderr)
        return 2
