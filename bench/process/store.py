"""The cache of what runs share: a safetensors file or a folder an entry, named by a hash of all that it depends on.

`python -m bench.cache` lists it, `--clear` empties it. The metadata of a file hold a checksum of its tensors, a folder
holds checksums of its files; either is written under another name and renamed when it is complete. A process that
computes an entry holds its lock, so that another process that needs the entry waits for it and reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from pydantic import ConfigDict, PositiveFloat
from pydantic.dataclasses import dataclass

from bench.process import ranks
from bench.process.files import delete, write_whole, write_whole_folder
from bench.process.hashes import file_sha256

if TYPE_CHECKING:
    from torch import Tensor

FOLDER_VARIABLE = "LORA_INIT_BENCH_CACHE"
SUFFIX = ".safetensors"
CONTENTS = "entry.json"  # of a folder: its title, and its files with their checksums
Entry = tuple["dict[str, Tensor]", dict[str, Any]]  # tensors by name, and everything else as plain values


class Storable(Protocol):
    """What an entry holds: it becomes tensors and plain values, and is made of them again."""

    def to_entry(self) -> Entry:
        """Tensors by name, and everything else as plain values."""

    @classmethod
    def from_entry(cls, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Self:
        """The inverse of `to_entry`."""


T = TypeVar("T", bound=Storable)


def default_folder() -> Path:
    """$LORA_INIT_BENCH_CACHE, else lora-init-bench below $XDG_CACHE_HOME or ~/.cache."""
    if FOLDER_VARIABLE in os.environ:
        return Path(os.environ[FOLDER_VARIABLE]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lora-init-bench"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Cache:
    """The `cache` key, explained in conf/README.md; it cannot change a number."""

    enabled: bool
    dir: Path | None
    max_gb: PositiveFloat

    @property
    def folder(self) -> Path:
        """The folder of the entries."""
        return self.dir.expanduser() if self.dir else default_folder()

    def fetch(self, key: str, title: str, compute: Callable[[], T], kind: type[T]) -> tuple[T, bool]:
        """Reads the entry of a key, or computes and stores it; rank 0 alone reads and writes.

        A folder that cannot be written, or an entry that is corrupt, is warned about and costs the computation only.
        Another process that needs the same entry waits for the lock, and reads.

        Args:
            key: the name of the file; a hash of all that the entry depends on.
            title: what `python -m bench.cache` lists.
            compute: called on every rank if there is no entry.
            kind: the class, whose `from_entry` reads an entry.

        Returns:
            What the entry holds, and whether it was read.
        """
        from filelock import FileLock

        usable = ranks.rank() == 0 and self.usable()
        with FileLock(self.folder / f"{key}.lock") if usable else nullcontext():
            entry = ranks.broadcast_object(self.look(key) if usable else None)
            if entry is not None:
                return kind.from_entry(*entry), True
            found = compute()
            if usable:
                self.keep(key, title, *found.to_entry())
        return found, False

    def usable(self) -> bool:
        """Whether the folder can be read and written; a folder that cannot be written is warned about."""
        if not self.enabled:
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                return True
        except OSError as error:
            _warn(f"cache.dir={self.folder} cannot be written ({error.strerror}); going on without it")
            return False

    def look(self, key: str) -> Entry | None:
        """The entry of a key; None if there is none, or, after a warning, if it is corrupt."""
        path = self.folder / f"{key}{SUFFIX}"
        return _read(path) if path.is_file() else None

    def keep(self, key: str, title: str, tensors: dict[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Writes an entry, and deletes others to make room; what cannot be written is warned about."""
        path = self.folder / f"{key}{SUFFIX}"
        if not self._fits(title, sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())):
            return
        try:
            _write(path, title, tensors, facts)
        except OSError as error:
            _warn(f"{path} cannot be written ({error.strerror}); going on without it")
            return
        evict(self.folder, int(1e9 * self.max_gb), kept=path)

    @contextmanager
    def folder_of(self, key: str, title: str, num_bytes: int, fill: Callable[[Path], None]) -> Iterator[Path]:
        """A folder that `fill` writes, for the processes of all runs; one that cannot be kept is deleted at the end.

        Args:
            key: the name of the folder; a hash of all that it depends on.
            title: what `python -m bench.cache` lists.
            num_bytes: about the size of what `fill` writes.
            fill: called with an empty folder if there is no entry.

        Raises:
            OSError: neither the cache nor the folder for temporary files can be written.
        """
        from filelock import FileLock

        path = self.folder / key
        kept = self.usable() and self._fits(title, num_bytes)
        if kept:
            with FileLock(self.folder / f"{key}.lock"):
                try:
                    if not _is_whole(path):
                        write_whole_folder(path, lambda to: _fill(to, title, fill))
                        evict(self.folder, int(1e9 * self.max_gb), kept=path)
                    os.utime(path)
                except OSError as error:
                    _warn(f"{path} cannot be written ({error.strerror}); going on without it")
                    kept = False
        if kept:
            yield path
            return
        with tempfile.TemporaryDirectory() as scratch:
            fill(Path(scratch))
            yield Path(scratch)

    def kept_folder(self, key: str) -> Path | None:
        """The folder of a key, whose files are not checked; None if there is none."""
        path = self.folder / key
        return path if self.enabled and (path / CONTENTS).is_file() else None

    def _fits(self, title: str, num_bytes: int) -> bool:
        if num_bytes > 1e9 * self.max_gb:
            _warn(f"{title} takes {num_bytes / 1e9:.1f} GB, more than cache.max_gb={self.max_gb:g}; it is not kept")
            return False
        return True


def _fill(to: Path, title: str, fill: Callable[[Path], None]) -> None:
    fill(to)
    files = {path.relative_to(to).as_posix(): file_sha256(path) for path in sorted(to.rglob("*")) if path.is_file()}
    (to / CONTENTS).write_text(json.dumps({"title": title, "files": files}), encoding="utf-8")


def _is_whole(path: Path) -> bool:
    """Whether a folder holds what was written; one that does not is deleted, after a warning."""
    if not path.exists():
        return False
    try:
        files = json.loads((path / CONTENTS).read_text(encoding="utf-8"))["files"]
        whole = all(file_sha256(path / name) == checksum for name, checksum in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        _warn(f"the cache entry {path} is corrupt; it is computed again")
        delete(path)
    return whole


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)


def _write(path: Path, title: str, tensors: dict[str, Tensor], facts: Mapping[str, Any]) -> None:
    from safetensors.torch import save

    metadata = {"format": "pt", "title": title, "facts": json.dumps(facts), "sha256": tensors_sha256(tensors)}
    write_whole(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))


def _read(path: Path) -> Entry | None:
    """The entry, marked as used; None, after a warning, if its checksum does not hold."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
        whole = metadata["sha256"] == tensors_sha256(tensors)
        facts = json.loads(metadata["facts"])
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError):
        whole = False
    if not whole:
        _warn(f"the cache entry {path} is corrupt; it is computed again")
        return None
    with suppress(OSError):
        os.utime(path)
    return tensors, facts


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """A hash of the tensors' names, types, shapes and bits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@plain_dataclass(frozen=True)
class Listed:
    """One entry as the listing shows it: its file or folder, size in bytes, and when it was last used."""

    path: Path
    num_bytes: int
    used: float
    title: str


def entries(folder: Path) -> list[Listed]:
    """The entries, most recently used first."""
    found = []
    for path in (*folder.glob(f"*{SUFFIX}"), *(contents.parent for contents in folder.glob(f"[!.]*/{CONTENTS}"))):
        with suppress(FileNotFoundError):  # another process may delete it
            files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
            num_bytes = sum(file.stat().st_size for file in files)
            found.append(Listed(path, num_bytes, path.stat().st_mtime, _title(path)))
    return sorted(found, key=lambda entry: entry.used, reverse=True)


def _title(path: Path) -> str:
    from safetensors import SafetensorError, safe_open

    try:
        if path.is_dir():
            return str(json.loads((path / CONTENTS).read_text(encoding="utf-8"))["title"])
        with safe_open(path, "pt") as file:
            return str((file.metadata() or {}).get("title", "?"))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return "corrupt"


def evict(folder: Path, max_bytes: int, kept: Path | None = None) -> list[Path]:
    """Deletes the least recently used entries but `kept` until the rest fits into max_bytes; returns their paths."""
    total, deleted = 0, []
    for entry in entries(folder):
        total += entry.num_bytes
        if total > max_bytes and entry.path != kept:
            delete(entry.path)
            deleted.append(entry.path)
    return deleted


def clear(folder: Path) -> int:
    """Deletes every entry, lock and unfinished file; returns the number of entries."""
    found = entries(folder)
    for path in (*(entry.path for entry in found), *folder.glob(".*.tmp"), *folder.glob("*.lock")):
        delete(path)
    return len(found)
