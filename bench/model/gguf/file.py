"""Reads GGUF files through transformers and the package gguf; what these raise becomes one line."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.process.validation import one_line

SUFFIX = ".gguf"


def found_in(folder: Path) -> Path | None:
    """The one GGUF file of a folder that is no model folder itself; None if it has none.

    Raises:
        ValueError: there are several.
    """
    files = sorted(folder.glob(f"*{SUFFIX}")) if not (folder / "config.json").is_file() else []
    if len(files) > 1:
        raise ValueError(
            f"model.path={folder} holds {len(files)} GGUF files ({', '.join(file.name for file in files)}); give one "
            "of them: model.path=FOLDER/NAME.gguf"
        )
    return files[0] if files else None


def metadata_of(file: Path) -> dict[str, Any]:
    """Metadata by key; the tokens in full, of the other lists of strings their length.

    transformers' reader needs 0.2 s for 49,152 tokens, where that of the package gguf needs 4 s.
    """
    from transformers.integrations.gguf import read_gguf_metadata

    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise ValueError(f"model.path={file} is no GGUF file (it does not begin with GGUF); copy it again")
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(
            f"model.path={file} is a GGUF file, and the package gguf, which reads it, is not installed; pip install "
            "gguf, or this project with its extra `laptop`"
        )
    with whole(file):
        return read_gguf_metadata(str(file), ("tokenizer.ggml.tokens",))[0]


def reader_of(file: Path) -> Any:
    """The file's tensors with their names, shapes and types; data are mapped and not read."""
    from gguf import GGUFReader

    with whole(file):
        return GGUFReader(file)


@contextmanager
def whole(file: Path) -> Iterator[None]:
    """Turns what the readers raise where a file ends too early into one line."""
    try:
        yield
    except (ValueError, KeyError, IndexError, OverflowError, struct.error) as error:
        raise ValueError(
            f"model.path={file} is cut short or damaged ({file.stat().st_size:,} bytes; {one_line(error):.120}); copy "
            "or download it again"
        ) from error


@contextmanager
def unread(file: Path, what: str) -> Iterator[None]:
    """Turns whatever transformers makes of a file into one line."""
    try:
        yield
    except Exception as error:
        version = importlib.metadata.version("transformers")
        raise ValueError(
            f"model.path={file.name}: {what} by transformers {version} ({one_line(error):.200}); take its safetensors "
            "(model=local)"
        ) from error
