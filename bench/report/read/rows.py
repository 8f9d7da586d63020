"""Some rows of a run's file, without parsing the others: of alignment.jsonl figures need a tenth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.runs.record import parse_rows


def read_rows_with(path: Path, words: Sequence[str]) -> list[dict[str, Any]]:
    """The rows whose line holds one of some words; as bench.runs.record.read_rows, also from the compressed file.

    Raises:
        CorruptRecordError: the file, or one of these lines, is torn.
    """

    def parse(text: str) -> list[Any]:
        wanted = (line for line in text.splitlines() if any(word in line for word in words))
        return json.loads(f"[{','.join(wanted)}]")  # at once, not line after line

    return parse_rows(path, parse)
