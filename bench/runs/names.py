"""Names that become folders: runs/STUDY/RUN_ID. None of them leads out of the results folder.

A study may have parts, as in lora_ga/llama2_tiny. A part begins with a letter, a digit or an underscore, so that it is
neither hidden, nor "..", nor an option on a command line.
"""

from __future__ import annotations

import re
from pathlib import Path

LONGEST = 200  # bytes of a part; file systems take 255, and temporary files carry longer names
_PART = re.compile(r"\w[\w.+=@, -]*")
_ALLOWED = "take letters, digits and . _ + = @ , -"


def is_name(text: object, longest: int = LONGEST) -> bool:
    """True if a text can be one folder's name, of at most `longest` bytes."""
    return isinstance(text, str) and bool(_PART.fullmatch(text)) and len(text.encode()) <= longest


def checked_name(text: str, key: str, longest: int = LONGEST) -> str:
    """The text, if it can be part of one folder's name; `key` is what the message calls it.

    Raises:
        ValueError: it cannot; one line.
    """
    if not is_name(text, longest):
        raise ValueError(
            f"{key}={text!r:.100} cannot be part of a folder's name: {_ALLOWED}, a letter or digit first, at most "
            f"{longest} bytes"
        )
    return text


def checked_study(text: str) -> str:
    """The text, if it names a folder below the results folder: names joined by "/".

    Raises:
        ValueError: it leads elsewhere; one line.
    """
    if not isinstance(text, str) or not all(map(is_name, text.split("/"))):
        raise ValueError(
            f"study={text!r:.100} is no folder below the results folder: {_ALLOWED}, with / between the parts, each a "
            "letter or digit first"
        )
    return text


def study_folder(results_dir: Path, name: str) -> Path:
    """results_dir/name, which need not exist.

    Raises:
        ValueError: the name, or a symbolic link on the way, leads out of the results folder; one line.
    """
    folder = results_dir / checked_study(name)
    found = folder.resolve()
    if not found.is_relative_to(results_dir.resolve()):
        raise ValueError(
            f"{folder} is a link that leads out of {results_dir}, to {found}; give the folder above with results_dir"
        )
    return folder
