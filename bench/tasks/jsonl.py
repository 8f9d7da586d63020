"""The rows of JSON-lines files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    """The objects of a JSON-lines file, each with the number of its line.

    Blank lines are passed over, as pandas and datasets do: they hold no row, and editors leave one at the end.

    Raises:
        ValueError: a line is not UTF-8, not a JSON object, or gives a key twice.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_unique)
                if b"\\u" in line:
                    json.dumps(row, ensure_ascii=False).encode()  # half of a surrogate pair is no character
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}:{number} is not UTF-8, byte {line[error.start]:#x}; convert the file, from Latin-1 with "
                    f"iconv -f latin1 -t utf-8 {path.name} > converted.jsonl"
                ) from None
            except ValueError as error:
                raise ValueError(f"{path}:{number} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"{path}:{number} is not a JSON object, but {str(row)[:40]}")
            yield number, row


def _unique(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in row if keys.count(key) > 1)!r} is given twice")
    return row
