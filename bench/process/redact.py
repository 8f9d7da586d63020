"""What must not leave the machine: secrets, the user's name, the home folder.

Records, curves, warnings and printed tracebacks pass through `redacted` or `shareable` before they are written. Of the
environment only the variables in provenance.VARIABLES are recorded at all. Reads no file and asks no server.
"""

from __future__ import annotations

import getpass
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

REDACTED = "[redacted]"
HOME, USER = "~", "$USER"
SHORTEST_SECRET = 8  # characters; a shorter value would be found inside ordinary words

# Of environment variables that hold a secret: TOKEN, but not TOKENIZERS_PARALLELISM, and no KEYBOARD.
_SECRET_NAME = re.compile(r"TOKEN(?!I[SZ])|SECRET|PASSW|CREDENTIAL|APIKEY|(^|_)KEYS?(_|$)", re.IGNORECASE)
# Keys by their form, for those that are in no variable: Hugging Face, W&B (new and old form), GitHub, OpenAI and its
# like, AWS, a password in an address, a header. 40 hexadecimal digits are also a commit: only beside a word for a key.
_FORMS = (
    r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}",
    r"\bwandb_v\d+_\w{16,}",
    r"\b(?:gh[oprsu]|github_pat)_\w{20,}",
    r"\bsk-[\w-]{20,}",
    r"\bAKIA[A-Z0-9]{16}\b",
    r"(?<=://)[^/\s:@\"']+:[^/\s@\"']+(?=@)",
    r"(?i:(?<=bearer )|(?<=basic ))[\w.~+/=-]{16,}",
    r"(?i:(?<=key)|(?<=token)|(?<=secret)|(?<=password))(?:[\"']?\s*[:=]\s*|\s+(?:is\s+)?)[\"']?[0-9a-fA-F]{40}\b",
)
_ABSOLUTE_PATH = re.compile(r"(?<![\w.:/~$-])/[^\s\"'`,:;()\[\]{}<>]+")


def redacted(text: str) -> str:
    """`text` with each secret replaced by "[redacted]".

    Secrets are the values of environment variables whose names say token, key, secret, password or credential, and
    whatever has the form of a well-known key.
    """
    return _secrets().sub(REDACTED, text)


def portable(path: str | Path) -> str:
    """A path, or a text with paths in it, without the home folder ("~") and the user's name ("$USER").

    The name is replaced where it is a whole component of an absolute path; a Hub id such as "user/model" stays.
    """
    text, names = str(path), _users()
    for home in {os.path.expanduser("~"), os.path.realpath(os.path.expanduser("~"))} - {"/"}:
        text = re.sub(rf"(?<![\w.$~-]){re.escape(home)}(?![\w.-])", HOME, text)

    def without_names(one: str) -> str:
        return "/".join(USER if part in names else part for part in one.split("/"))

    if text.startswith("/") and "\n" not in text:  # a path, which may hold blanks
        return without_names(text)
    return _ABSOLUTE_PATH.sub(lambda found: without_names(found.group()), text)


def local(path: str | Path) -> str:
    """The path on this machine that `portable` wrote: with this home folder and this user's name."""
    text = str(path)
    if text == HOME or text.startswith(f"{HOME}/"):
        text = str(Path.home()) + text[len(HOME) :]
    if not text.startswith("/"):
        return text
    return "/".join(next(iter(_users()), USER) if part == USER else part for part in text.split("/"))


def shareable(value: Any) -> Any:
    """`value`, a nest of dicts, lists and plain values, with each text in it redacted and portable."""
    pattern = _secrets()
    return _each_text(value, lambda text: portable(pattern.sub(REDACTED, text)))


def without_secrets(value: Any) -> Any:
    """`value`, a nest of dicts, lists and plain values, with each text in it redacted; its paths stay."""
    pattern = _secrets()
    return _each_text(value, lambda text: pattern.sub(REDACTED, text))


def localised(value: Any) -> Any:
    """A nest that `shareable` made, with the paths of this machine; secrets stay taken out."""
    return _each_text(value, local)


def _each_text(value: Any, convert: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return convert(value)
    if isinstance(value, dict):
        return {_each_text(key, convert): _each_text(one, convert) for key, one in value.items()}
    return [_each_text(one, convert) for one in value] if isinstance(value, list | tuple) else value


def _secrets() -> re.Pattern[str]:
    """Matches every secret, also as JSON and addresses write it; the longest first, so that none is left half."""
    named = {value.strip() for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    secrets = (one for one in named if len(one) >= SHORTEST_SECRET and not one.isdecimal())  # MAX_TOKENS=10000000
    written = {form for one in secrets for form in (one, json.dumps(one)[1:-1], quote(one, safe=""))}
    return re.compile("|".join([*map(re.escape, sorted(written, key=len, reverse=True)), *_FORMS]))


def _users() -> list[str]:
    """The names of this user in the environment and, if it has none, in the system."""
    names = [os.environ.get("USER")]
    with suppress(ImportError, KeyError, OSError):  # a user without a name
        names.append(getpass.getuser())
    return [name for name in dict.fromkeys(names) if name]
