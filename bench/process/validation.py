"""The message of an error in one line."""

from __future__ import annotations

from pydantic import ValidationError


def one_line(error: BaseException, prefix: str = "") -> str:
    """The first line of an error's message, or the name of its class if there is no message.

    A ValidationError of pydantic names every wrong key with its value and the limit, separated by semicolons.

    Args:
        error: the error.
        prefix: put before each key, such as "method.".
    """
    if not isinstance(error, ValidationError):
        return next(iter(str(error).splitlines()), type(error).__name__)
    lines = []
    for problem in error.errors():
        key, given = prefix + ".".join(map(str, problem["loc"])), problem["input"]
        if problem["type"] in ("string_type", "path_type") and isinstance(given, int | float):  # bool, too
            kind = "true or false" if isinstance(given, bool) else "a number"
            lines.append(
                f'{key}={given!r}: YAML reads {kind} here, and a text is wanted: quote it, {key}: "TEXT" in a file, '
                f"'{key}=\"TEXT\"' on a command line"
            )
        elif problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            lines.append(f"{key}={given!r}: nothing reads this key; check its spelling")
        elif problem["type"] in ("missing", "missing_argument"):
            lines.append(f"{key} is missing")
        else:
            own = problem["type"] == "value_error"
            message = problem["msg"].removeprefix("Value error, ") if own else problem["msg"].lower()
            whole = not key or isinstance(given, dict)  # which says less than the message, at length
            lines.append(message if whole else f"{key}={given!r:.200}: {message}")
    return "; ".join(lines)
