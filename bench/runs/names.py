"""Names that become folders: results/STUDY/RUN_ID. None of them leads out of the results folder.

A study may have parts, as in lora_ga/llama2_tiny. A part begins with a letter, a digit or an underscore, so that it is
neither hidden, nor "..", nor an option on a command line.
"""

from __future__ import annotations

import re
from pathlib import Path

LONGEST = 200  # bytes of a part; file systems take 255, and temporary files carry longer names
_PART = re.compile(r"\w[\w.+=@, -]*")


def is_name(text: object) -> bool:
    """Whether a text can be one folder's name."""
    return isinstance(text, str) and bool(_PART.fullmatch(text)) and len(text.encode(errors="replace")) <= LONGEST


def checked_name(text: str, key: str, longest: int = LONGEST) -> str:
    """The text itself, where it can be part of one folder's name.

    Args:
        key: what the message calls it.
        longest: bytes that it may have.

    Raises:
        ValueError: it cannot; one line.
    """
    if not is_name(text) or len(text.encode(errors="replace")) > longest:
        raise ValueError(
            f"{key}={_short(text)} cannot be part of a folder's name: take letters, digits and . _ + = @ , -, a letter "
            f"or digit first, at most {longest} bytes"
        )
    return text


def checked_study(text: str, key: str = "study") -> str:
    """The text itself, where it names a folder below the results folder: parts as `is_name`, joined by "/".

    Raises:
        ValueError: it leads elsewhere; one line.
    """
    if not isinstance(text, str) or not all(map(is_name, text.split("/"))):
        raise ValueError(
            f"{key}={_short(text)} is no folder below the results folder: take letters, digits and . _ + = @ , -, "
            "with / between the parts, each a letter or digit first"
        )
    return text


def study_folder(results_dir: Path, name: str) -> Path:
    """results_dir/name, which need not exist.

    Raises:
        ValueError: the name, or a symbolic link on the way, leads out of the results folder; one line.
    """
    folder = results_dir / checked_study(name)
    return _inside(folder, results_dir)


def run_folder(results_dir: Path, study: str, run_id: str) -> Path:
    """results_dir/study/run_id, which need not exist.

    Raises:
        ValueError: as `study_folder`.
    """
    folder = study_folder(results_dir, study) / checked_name(run_id, "run_id")
    return _inside(folder, results_dir)


def _inside(folder: Path, results_dir: Path) -> Path:
    try:
        found, root = folder.resolve(), results_dir.resolve()
    except (OSError, RuntimeError) as error:  # a link to itself
        raise ValueError(f"{folder} cannot be followed: {error}") from None
    if not found.is_relative_to(root):
        raise ValueError(
            f"{folder} is a link that leads out of {results_dir}, to {found}; give the folder above with results_dir"
        )
    return folder


def _short(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= 100 else f"{shown[:100]}..."
