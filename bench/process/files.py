"""Writing a file, or a folder, as a whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Replaces a file so that, whenever the machine stops, `path` holds all of the earlier content or all of the new.

    Args:
        path: in a folder that exists; the temporary file beside it is .NAME.xxxxxxxx.tmp.
        content: text is written as UTF-8.

    Raises:
        OSError: the folder cannot be written, or the disk is full; `path` is as it was.
    """
    temporary = hidden(path)
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Makes a folder so that, whenever the machine stops, `path` holds all that `fill` writes or does not exist.

    Args:
        path: of no file or folder, in a folder that exists; the temporary one beside it is .NAME.xxxxxxxx.tmp.
        fill: writes into the folder that it is given.

    Raises:
        OSError: the folder cannot be written, or the disk is full; `path` does not exist.
    """
    temporary = hidden(path)
    try:
        temporary.mkdir()
        fill(temporary)
        for file in temporary.rglob("*"):
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def set_usual_mode(path: Path) -> None:
    """Gives a file the permissions that open() would: safetensors' own files can be read by their owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def delete(path: Path) -> None:
    """Deletes a file or a folder, if it is there; a folder that is deleted in part does not keep its name."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    going = hidden(path)
    with suppress(FileNotFoundError):  # another process may delete it
        path.replace(going)
    shutil.rmtree(going, ignore_errors=True)


def hidden(path: Path) -> Path:
    """A name of its own for what is being written or deleted: .NAME.xxxxxxxx.tmp beside `path`."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
