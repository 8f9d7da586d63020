"""SHA-256 of plain values and of files."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any


def values_sha256(values: Any) -> str:
    """A hash of every value of nested lists and dicts, whatever the order of keys; what JSON lacks counts as text."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """A hash of a file's bytes, read once a process while size and time of change are the same.

    A sweep asks for the same gigabytes in every cell.
    """
    stat = path.stat()
    return _file_sha256(path, stat.st_size, stat.st_mtime_ns)


@functools.cache
def _file_sha256(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
