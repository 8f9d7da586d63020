"""The class that `method._target_` names: a method's, and no other object is called, so a configuration runs no code.

A module that is not imported yet is imported only if its source, read as text, holds a class of that name.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from dataclasses import is_dataclass
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path

from bench.methods.base import Method
from bench.process.validation import one_line

_TARGET = re.compile(r"([A-Za-z_]\w*\.)+[A-Z]\w*", re.ASCII)  # functions are not written so


def method_class(target: str) -> type[Method]:
    """The class of a method.

    Args:
        target: "package.module.Class", in bench.methods or any other module on Python's path.

    Raises:
        ValueError: it names no class, or a class that is no method; one line.
    """
    module, _, name = target.rpartition(".")
    if not _TARGET.fullmatch(target):
        raise ValueError(f"method._target_={target[:200]!r} names no class: it is no package.module.Class")
    try:
        known = module in sys.modules or name in _classes(module)
        found = vars(importlib.import_module(module)).get(name) if known else None
    except Exception as error:  # whatever the module does
        first = one_line(error)
        raise ValueError(f"method._target_={target} cannot be imported: {type(error).__name__}: {first}") from error
    if not isinstance(found, type):
        raise ValueError(
            f"method._target_={target} names no class: found no module {module} with a class {name}; "
            "PYTHONPATH names the folder of a module of your own"
        )
    if not (issubclass(found, Method) and is_dataclass(found)):
        raise ValueError(
            f"method._target_={target} is no method: make it a dataclass and a subclass of bench.methods.base.Method"
        )
    return found


def _classes(module: str) -> set[str]:
    """Classes that the source of a module defines or imports; importlib.util.find_spec would run its packages."""
    spec, path = None, None
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:end]), path)
        if spec is None:
            return set()
        path = spec.submodule_search_locations
    if spec is None or not isinstance(spec.loader, SourceFileLoader):
        return set()
    body = ast.parse(Path(spec.loader.path).read_bytes()).body
    imported = {name.asname or name.name for one in body if isinstance(one, ast.ImportFrom) for name in one.names}
    return {one.name for one in body if isinstance(one, ast.ClassDef)} | imported
