"""The class that `system._target_` names: one of bench.systems, and nothing else is imported."""

from __future__ import annotations

import importlib
import re
from dataclasses import is_dataclass

from bench.systems.base import System

_TARGET = re.compile(r"(bench\.systems\.[a-z]\w*)\.([A-Z]\w*)", re.ASCII)


def system_class(target: str) -> type[System]:
    """The class of a system.

    Args:
        target: "bench.systems.module.Class".

    Raises:
        ValueError: it names no system; one line.
    """
    found = _TARGET.fullmatch(target)
    try:
        named = getattr(importlib.import_module(found[1]), found[2], None) if found else None
    except ModuleNotFoundError:
        named = None
    if not (isinstance(named, type) and issubclass(named, System) and is_dataclass(named)):
        raise ValueError(
            f"system._target_={target[:200]!r} names no system: it is no bench.systems.module.Class; choose one of "
            "conf/system with system=NAME"
        )
    return named
