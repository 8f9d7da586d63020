"""Writing a file as a whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Replaces a file so that, whenever the machine stops, `path` holds all of the earlier content or all of the new.

    Args:
        path: in a folder that exists; the temporary file beside it is .NAME.xxxxxxxx.tmp.
        content: text is written as UTF-8.

    Raises:
        OSError: the folder cannot be written, or the disk is full; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
