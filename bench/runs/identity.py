"""The texts from which a run's identity is made, part by part: a part that many runs share is written once."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.process.redact import without_secrets

if TYPE_CHECKING:
    from bench.methods.base import Method

Texts = tuple[str, str]  # of a value: JSON with its keys in their order, and sorted


def written(part: Any, how: Hashable, value: Callable[[], Any]) -> Texts:
    """JSON of what a part gives to an identity, without secrets, as the record will have it."""

    def texts() -> Texts:
        plain = without_secrets(json.loads(json.dumps(value(), default=plain_value)))
        return json.dumps(plain), json.dumps(plain, sort_keys=True)

    return kept(part, how, texts)


def part_text(part: Any) -> str:
    """A part of a run as JSON with sorted keys, written once."""
    return written(part, "whole", lambda: part)[1]


def kept(part: Any, how: Hashable, value: Callable[[], Any]) -> Any:
    """What was found of a part before, kept with it: parts are frozen, and many runs share one."""
    known: dict[Hashable, Any] = getattr(part, "__dict__", {}).setdefault("_kept", {})  # with slots nothing is kept
    if how not in known:
        known[how] = value()
    return known[how]


def method_identity(method: Method) -> dict[str, Any]:
    """Its class, and all that its configuration sets."""
    target = f"{type(method).__module__}.{type(method).__qualname__}"
    return {"_target_": target} | asdict(method)  # type: ignore[call-overload]


def plain_value(value: Any) -> Any:
    """For json.dumps: what of a configuration JSON does not know.

    Raises:
        TypeError: it has no place in a configuration.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} has no place in a configuration")
