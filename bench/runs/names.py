"""Names that become folders: results/STUDY/RUN_ID. None of them leads out of the results folder.

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
    return isinstance(text, str) and bool(_PART.fullmatch(text)) and len(text.encode(errors="replace")) <= longest


def checked_name(text: str, key: str, longest: int = LONGEST) -> str:
    """Returns the text if it can be part of one folder's name.

    Args:
        text: such as a method's name.
        key: what the message calls it.
        longest: bytes that it may have.

    Raises:
        ValueError: it cannot; one line.
    """
    if not is_name(text, longest):
        raise ValueError(
            f"{key}={_short(text)} cannot be part of a folder's name: {_ALLOWED}, a letter or digit first, at most "
            f"{longest} bytes"
        )
    return text


def checked_study(text: str, key: str = "study") -> str:
    """Returns the text if it names a folder below the results folder: names joined by "/".

    Raises:
        ValueError: it leads elsewhere; one line.
    """
    if not isinstance(text, str) or not all(map(is_name, text.split("/"))):
        raise ValueError(
            f"{key}={_short(text)} is no folder below the results folder: {_ALLOWED}, with / between the parts, each a "
            "letter or digit first"
        )
    return text


def study_folder(results_dir: Path, name: str) -> Path:
    """results_dir/name, which need not exist.

    Raises:
        ValueError: the name, or a symbolic link on the way, leads out of the results folder; one line.
    """
    folder = results_dir / checked_study(name)
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
