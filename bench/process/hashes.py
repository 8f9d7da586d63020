"""SHA-256 of plain values and of files."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any


def values_sha256(values: Any) -> str:
    """A hash of nested lists and dicts, whatever the order of keys; a value that JSON lacks is hashed as its text."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def tokenizer_sha256(tokenizer: Any) -> str | None:
    """A hash of all that a tokenizer's encodings depend on; None for a tokenizer without a Rust backend."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    return _state_sha256(backend.to_str(), tokenizer.eos_token_id, tokenizer.bos_token_id)


@functools.lru_cache(maxsize=2)
def _state_sha256(state: str, eos: int | None, bos: int | None) -> str:
    return values_sha256([json.loads(state) | {"truncation": None, "padding": None}, eos, bos])  # of the last call


def file_sha256(path: Path) -> str:
    """A hash of a file's bytes, memoised while its size and times are the same: every cell asks for the same files."""
    stat = path.stat()
    return _file_sha256(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@functools.cache
def _file_sha256(path: Path, _size: int, _changed: int, _touched: int) -> str:
    return fresh_sha256(path)


def fresh_sha256(path: Path) -> str:
    """A hash of a file's bytes, read now."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
