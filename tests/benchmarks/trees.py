"""This tree of the suite and the earlier one of commit 72d1a51, whose cost goals are stated against."""

from __future__ import annotations

import atexit
import functools
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from process import ROOT, output

COMMIT = "72d1a51"


@functools.cache
def earlier() -> Path | None:
    """A copy of the earlier tree until the process ends; None where the history does not go back so far."""
    done = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        return None
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def skipped(name: str) -> bool:
    """Whether a benchmark must be left out, because the earlier tree cannot be had; then prints a line that says so."""
    if earlier() is None:
        print(f"{name}: skipped, the history of this checkout has no commit {COMMIT}\n", flush=True)
    return earlier() is None


def ask(tree: Path, question: str, *overrides: str) -> dict[str, Any]:
    """What in_tree.py answers about a tree, in a process of its own."""
    script = str(Path(__file__).parent / "in_tree.py")
    answer = output(script, str(tree), question, json.dumps(overrides), folder=tree)
    return json.loads(answer.splitlines()[-1])


def over_weights(answer: dict[str, Any], phase: str) -> float:
    """GB of a cell's phase at its peak, above what the process holds with the weights alone."""
    return (answer["phases"][phase]["peak_bytes"] - answer["held_bytes"]) / 1e9
