"""The console script `lora-init-bench COMMAND ...`, which does what `python -m bench.COMMAND ...` does."""

from __future__ import annotations

import ast
import os
import sys
from importlib import import_module
from pathlib import Path

from bench import __version__
from bench.process.validation import did_you_mean

COMMANDS = {
    "run": "bench.run",
    "plan": "bench.plan.__main__",
    "status": "bench.status",
    "report": "bench.report.__main__",
    "leaderboard": "bench.leaderboard",
    "diff": "bench.diff",
    "verify": "bench.verify",
    "export": "bench.export",
    "methods": "bench.plan.methods_table",
    "new": "bench.new.__main__",
    "claims": "bench.report.claims",
    "compact": "bench.compact",
    "mirror": "bench.mirror",
    "cache": "bench.cache",
}
COMPLETION = ("-sc", "--shell-completion")


def main() -> int | None:
    """Calls the command that the first word names; returns its exit status."""
    word, *rest = sys.argv[1:] or ["--help"]
    if word in COMPLETION:
        return _complete()
    if word in ("-h", "--help"):
        print(_help())
        return 0
    if word == "--version":
        print(f"lora-init-bench {__version__}")
        return 0
    if word not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"error: no command {word}{did_you_mean(word, list(COMMANDS))}; choose from {known}", file=sys.stderr)
        return 2
    sys.path.insert(0, os.getcwd())  # as python -m does: classes of the working directory are found
    sys.argv[1:] = rest
    status: int | None = import_module(COMMANDS[word]).main()
    return status


def _help() -> str:
    lines = [f"  {word:<12} {_first_line(module)}" for word, module in COMMANDS.items()]
    return "\n".join(
        [
            "usage: lora-init-bench COMMAND ..., or python -m bench.COMMAND ...",
            "",
            *lines,
            "",
            "lora-init-bench COMMAND --help explains a command; --version prints the version.",
            'eval "$(lora-init-bench -sc install=bash)" completes commands, and the groups and keys of run, in bash.',
        ]
    )


def _first_line(module: str) -> str:
    """Of the docstring of a command's file, which is not imported: some take seconds."""
    path = Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py")
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return said.partition("\n")[0].partition(": `python")[0].rstrip(".")


def _complete() -> int | None:
    """Answers bash, with Hydra's completion behind the word `run`, and with the commands elsewhere."""
    name, *words = os.environ.get("COMP_LINE", "").split()[:3] or [""]
    if "query=bash" in sys.argv and words[:1] != ["run"]:
        print(" ".join(COMMANDS))
        return 0
    os.environ["COMP_LINE"] = os.environ.get("COMP_LINE", "").replace(f"{name} run", name, 1)
    status: int | None = import_module("bench.run").main()
    return status


if __name__ == "__main__":
    sys.exit(main())
