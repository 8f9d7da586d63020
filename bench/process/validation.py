"""The message of an error in one line, and what a word that is not known may mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

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


def did_you_mean(word: str, known: Iterable[str] | Mapping[str, str], before: str = "") -> str:
    """The text " (did you mean X?)" for the known word that is most like one that is not known, or "" without one.

    Args:
        word: as it was given.
        known: the words that could have been meant; of a mapping, the values are named.
        before: put before the word that is named, such as "method=".
    """
    by_word = known if isinstance(known, Mapping) else {one: one for one in known}
    return "".join(f" (did you mean {before}{by_word[one]}?)" for one in get_close_matches(word, by_word, n=1))
