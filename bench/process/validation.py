"""What is wrong with a configuration, said in one line; and values that no record could hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

LONGEST_MESSAGE = 2000  # characters
DEEPEST = 32  # containers in containers; the deepest that conf/ has are 6


class ConfigError(ValueError):
    """A configuration that cannot be run; the message is one line with the value, the limit and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split())[:LONGEST_MESSAGE])


def check_plain(value: Any, key: str = "", depth: int = 0) -> None:
    """Refuses what no record could hold, or no reader could read again.

    Raises:
        ConfigError: a nest too deep, a key that is no text, half a character, a number that is none or too large.
    """
    if isinstance(value, Mapping | list | tuple):
        if depth == DEEPEST:
            raise ConfigError(f"{key[:100]}: nested more than {DEEPEST} deep")
        for name, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            if isinstance(value, Mapping) and not isinstance(name, str):
                raise ConfigError(f"{key[:100]} has the key {name!r:.100}: keys are texts")
            check_plain(name, f"a key of {key or 'the configuration'}")
            check_plain(inner, f"{key}.{name}" if key else str(name), depth + 1)
    elif isinstance(value, str):
        if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise ConfigError(f"{key[:100]}={value!r:.100} holds a character that no file can hold")
    elif isinstance(value, int):
        if abs(value) >= 2**63:
            raise ConfigError(f"{key[:100]}: the number is too large; it must be below 2**63")
    elif isinstance(value, float) and math.isnan(value):
        raise ConfigError(f"{key[:100]}=nan is no number")


def one_line(error: ValidationError, prefix: str = "") -> str:
    """What is wrong, key by key, in one line."""
    lines = []
    for problem in error.errors():
        key = prefix + ".".join(str(part) for part in problem["loc"])
        if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            lines.append(f"{key}={problem['input']!r}: nothing reads this key; check its spelling")
        elif problem["type"] in ("missing", "missing_argument"):
            lines.append(f"{key} is missing")
        else:
            message = (
                problem["msg"].removeprefix("Value error, ")
                if problem["type"] == "value_error"
                else problem["msg"].lower()
            )
            whole = not key or isinstance(problem["input"], dict)  # which says less than the message, at length
            lines.append(message if whole else f"{key}={problem['input']!r:.200}: {message}")
    return "; ".join(lines)
