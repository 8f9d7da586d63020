"""The class that `method._target_` names, and no other object: a configuration cannot call or run what it likes.

A module is imported only when its source, read as text, holds a class of that name; what is found must be a method.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from dataclasses import is_dataclass
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from typing import Any, get_args

from bench.methods.base import Method, Statistic, Trainable

_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\.[A-Z]\w*", re.ASCII)  # functions are not written so
LONGEST_TARGET = 200  # characters


def method_class(target: str) -> type[Method]:
    """The class of a method.

    Args:
        target: "package.module.Class"; the module is one of bench.methods, or another that Python finds.

    Raises:
        ValueError: it names no module, no class, or a class that is no method; one line.
    """
    if len(target) > LONGEST_TARGET or not _TARGET.fullmatch(target):
        raise ValueError(f"method._target_={target[:LONGEST_TARGET]!r} names no class: it is no package.module.Class")
    module_name, _, name = target.rpartition(".")
    module = sys.modules.get(module_name)  # __main__, for a notebook's own class
    if module is None:
        if missing := _missing(module_name, name):
            raise ValueError(f"method._target_={target} names no class: {missing}")
        try:
            module = importlib.import_module(module_name)
        except Exception as error:  # whatever the module does
            first = (str(error).splitlines() or [""])[0]
            raise ValueError(f"method._target_={target} cannot be imported: {type(error).__name__}: {first}") from error
    found = vars(module).get(name)
    if not isinstance(found, type):
        raise ValueError(f"method._target_={target} names no class: {module_name} has none of this name")
    if not is_method(found):
        raise ValueError(
            f"method._target_={target} is no method: a method is a dataclass with label, requires, trains and "
            "keeps_function, as bench.methods.base.Method says"
        )
    return found


def is_method(found: Any) -> bool:
    """Whether a class has what `Method` asks for; looks at it and calls nothing."""
    has: dict[str, Any] = {n: getattr(found, n, None) for n in ("label", "requires", "trains", "keeps_function")}
    known = {"requires": set(get_args(Statistic)), "trains": set(get_args(Trainable))}
    return (
        is_dataclass(found)
        and isinstance(has["label"], str)
        and isinstance(has["keeps_function"], bool)
        and all(isinstance(has[name], frozenset) and has[name] <= values for name, values in known.items())
    )


def _missing(module_name: str, class_name: str) -> str | None:
    """Why the module is not to be imported; None where its source holds the class."""
    first, *inner = module_name.split(".")
    if first in sys.stdlib_module_names or first == "__main__":
        return f"{first} is Python's own"
    path, spec, at = None, None, ""
    for part in (first, *inner):  # importlib.util.find_spec would import the packages on the way
        at = f"{at}.{part}" if at else part
        spec = PathFinder.find_spec(at, path)
        if spec is None:
            return f"there is no module {at}"
        path = spec.submodule_search_locations
    if spec is None or not isinstance(spec.loader, SourceFileLoader) or spec.origin is None:
        return f"{module_name} has no source"
    try:
        body = ast.parse(Path(spec.origin).read_bytes()).body
    except (OSError, SyntaxError, ValueError) as error:
        return f"{module_name} cannot be read: {error}"
    classes = {one.name for one in body if isinstance(one, ast.ClassDef)}
    imported = {name.asname or name.name for one in body if isinstance(one, ast.ImportFrom) for name in one.names}
    return None if class_name in classes | imported else f"{module_name} has none of this name"
