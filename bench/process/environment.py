"""Settings that libraries read when they are imported, and how the suite's own warnings are shown."""

from __future__ import annotations

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bench


def _show_warning(others: Callable[..., None], message: Warning | str, category: type, path: str, *rest: Any) -> None:
    """Shows the suite's own warnings, which are for its user, in one line without the place in the code."""
    if category is UserWarning and Path(path).is_relative_to(Path(bench.__file__).parent):
        print(f"warning: {message}", file=sys.stderr, flush=True)
    else:
        others(message, category, path, *rest)


def quiet_environment() -> None:
    """To be called before heavy imports: no telemetry, no parallel tokenizer, warnings in one line each."""
    # PEFT reads an attribute that transformers will rename; nothing that a user of the suite can mend.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
    warnings.showwarning = functools.partial(_show_warning, warnings.showwarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


@contextmanager
def quiet(*libraries: str) -> Iterator[None]:
    """Silences remarks of libraries, below errors, on intended settings."""
    levels = {logger: logger.level for logger in map(logging.getLogger, libraries)}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
