"""Calls one function in a process of its own, so that its peak memory and its libraries' state are its own.

`fresh` is the caller's side; run as a program, this file is the other: python process.py CALL ANSWER, both pickles.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
NUM_THREADS = 1  # of every contender: a second one would wait for whatever else the machine does
ENVIRONMENT = {
    "OMP_NUM_THREADS": str(NUM_THREADS),
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "disabled",
    "PYTHONWARNINGS": "ignore",
}


class ContenderError(RuntimeError):
    """A process that ended without an answer; the message ends with the last lines of what it wrote."""

    def __init__(self, what: str, status: int, output: str) -> None:
        super().__init__(f"{what} ended with status {status}:\n" + "\n".join(output.splitlines()[-15:]))


def fresh(function: Callable[..., T], **arguments: object) -> T:
    """What `function(**arguments)` returns in a new process; function, arguments and answer are pickled.

    Raises:
        ContenderError: the process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        call, answer = Path(folder) / "call", Path(folder) / "answer"
        call.write_bytes(pickle.dumps((function, arguments)))
        command(f"{function.__module__}.{function.__qualname__}", sys.executable, __file__, str(call), str(answer))
        return pickle.loads(answer.read_bytes())


def command(what: str, *words: str) -> None:
    """Runs a command in the checkout, on the threads of all contenders, and discards what it prints.

    Raises:
        ContenderError: it ended with another status than 0.
    """
    done = subprocess.run(
        words,
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ContenderError(what, done.returncode, done.stdout)


def answer_call(call: Path, answer: Path) -> None:
    """The other side of `fresh`."""
    function, arguments = pickle.loads(call.read_bytes())
    answer.write_bytes(pickle.dumps(function(**arguments)))


if __name__ == "__main__":
    answer_call(Path(sys.argv[1]), Path(sys.argv[2]))
