"""Former names of configuration keys and values, understood on command lines, in experiment files and in records.

A name stays here for one release after the one that changed it, and for as long as records with it are read.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

KEYS = {"run.lease_seconds": "run.heartbeat_timeout_seconds"}  # full keys; another name below the same parent
VALUES: dict[str, dict[str, str]] = {}  # full key -> former value -> value


@functools.cache
def warn(former: str, now: str) -> None:
    """One line on stderr, once for each name in a process."""
    print(f"warning: {former} is called {now} now", file=sys.stderr)


def renamed(values: Mapping[str, Any], tell: Callable[[str, str], object] = warn, above: str = "") -> dict[str, Any]:
    """A nest of mappings with the present names of its keys and values.

    Args:
        values: as in conf/config.yaml; a key may also be dotted, as in hydra.sweeper.params.
        tell: called with each former name and the present one.
        above: the key of `values` itself, with a dot behind it.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        full = next((name for name in (f"{above}{key}", str(key)) if name in KEYS), None)
        now = key if full is None else KEYS[full] if "." in str(key) else KEYS[full].rpartition(".")[2]
        if full is not None:
            tell(full, KEYS[full])
        former = VALUES.get(f"{above}{key}") or VALUES.get(str(key)) or {}
        words = str(value).split(",") if former else []
        for word in {word.strip() for word in words} & set(former):
            tell(f"{key}={word}", f"{key}={former[word]}")
        if isinstance(value, Mapping):
            found[now] = renamed(value, tell, f"{above}{key}.")
        else:
            found[now] = ",".join(former.get(word.strip(), word) for word in words) if words else value
    return found
