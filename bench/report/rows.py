"""Some rows of a run's file, without parsing the others: of alignment.jsonl figures need a tenth."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.record import CorruptRecordError


def read_rows_with(path: Path, words: Sequence[str]) -> list[dict[str, Any]]:
    """The rows whose line holds one of some words; as bench.record.read_rows, also from the compressed file.

    Raises:
        CorruptRecordError: the file, or one of these lines, is torn.
    """
    if not path.is_file():
        path = path.with_name(f"{path.name}.gz")
        if not path.is_file():
            return []
    try:
        text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text(encoding="utf-8")
        wanted = [line for line in text.splitlines() if any(word in line for word in words)]
        rows = json.loads(f"[{','.join(wanted)}]")
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise CorruptRecordError(f"{path}: {type(error).__name__}: {error}") from None
    if not all(isinstance(row, dict) for row in rows):
        raise CorruptRecordError(f"{path}: a line is no row of named values")
    return rows
