"""Contenders in turns, each in a process of its own, so that its peak memory and its libraries' state are its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
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
_began = time.perf_counter()


@dataclass(frozen=True)
class Options:
    """What the command line asks for; None leaves the number to the benchmark."""

    full: bool = False
    repetitions: int | None = None
    samples: int | None = None
    data_root: Path | None = None
    threads: tuple[int, ...] = (NUM_THREADS,)


def fresh(function: Callable[..., T], **arguments: object) -> T:
    """What `function(**arguments)` returns in a new process; function, arguments and answer are pickled."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, **arguments).result()


def output(*words: str, folder: Path = ROOT) -> str:
    """What a Python command prints on stdout, run in the checkout or in another folder.

    Raises:
        RuntimeError: it ended with another status than 0; the message ends with the last lines that it printed.
    """
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join(f"{done.stdout}{done.stderr}".splitlines()[-15:])
        raise RuntimeError(f"{' '.join(words)[:200]} ended with status {done.returncode}:\n{last}")
    return done.stdout


def interleaved(contenders: Mapping[str, Callable[[], T]], repetitions: int) -> dict[str, list[T]]:
    """What each contender returned, by repetition; in turns, so that a slow minute of the machine meets all alike."""
    values: dict[str, list[T]] = {contender: [] for contender in contenders}
    for repetition in range(repetitions):
        for contender, run in contenders.items():
            say(f"{contender}, {repetition + 1} of {repetitions}")
            values[contender].append(run())
    return values


def on_threads(options: Options) -> Iterator[str]:
    """For the contenders started meanwhile one number of threads after another; yields what a row's name says of it."""
    from accelerate.utils import patch_environment

    for number in options.threads:
        with patch_environment(omp_num_threads=str(number)):
            yield "" if number == NUM_THREADS else f", {number} threads"


def say(line: str) -> None:
    """Prints a line of progress on stderr, after the minutes since the start."""
    seconds = int(time.perf_counter() - _began)
    print(f"[{seconds // 60:3d}:{seconds % 60:02d}] {line}", file=sys.stderr, flush=True)
