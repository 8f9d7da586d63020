"""What must not leave the machine: secrets, the user's name, the home folder.

Records, curves, warnings and printed tracebacks pass through `redacted` or `shareable` before they are written. It
imports no library, asks no server and reads only the files in which keys are kept, so that it can be called anywhere.
"""

from __future__ import annotations

import base64
import configparser
import functools
import getpass
import json
import netrc
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

REDACTED = "[redacted]"
HOME, USER = "~", "$USER"
SHORTEST_SECRET = 8  # characters; a shorter value would be found inside ordinary words

# TOKEN, but neither TOKENIZERS_PARALLELISM nor KEYBOARD, PWD or PATH.
_SECRET_NAME = re.compile(
    r"TOKEN(?!I[SZ])|SECRET|PASSW|PASSPHRASE|CREDENTIAL|APIKEY|(^|_)(KEY|PAT|AUTH)S?(_|$)", re.IGNORECASE
)
_NUMBER = re.compile(r"[-+.\d_e]+", re.IGNORECASE)  # MAX_TOKENS=10000000
_WORD_START = r"(?<![A-Za-z0-9])"
# Keys by their form, for those that this process was never told: Hugging Face, W&B (new and old form), GitHub, OpenAI
# and its like, AWS, a password in an address, a header.
_FORMS = [
    rf"{_WORD_START}(?:hf|api_org)_[A-Za-z0-9]{{16,}}",
    rf"{_WORD_START}wandb_v\d+_[A-Za-z0-9_]{{16,}}",
    rf"{_WORD_START}(?:gh[oprsu]|github_pat)_[A-Za-z0-9_]{{20,}}",
    rf"{_WORD_START}sk-[A-Za-z0-9_-]{{20,}}",
    rf"{_WORD_START}AKIA[A-Z0-9]{{16}}\b",
    r"(?<=://)[^/\s:@\"']+:[^/\s@\"']+(?=@)",
    r"(?i:(?<=bearer )|(?<=basic ))[A-Za-z0-9._~+/=-]{16,}",
    # 40 hexadecimal digits are also a commit: only next to a word that says key.
    r"(?i:(?<=key)|(?<=token)|(?<=secret)|(?<=password))(?:[\"']?\s*[:=]\s*|\s+(?:is\s+)?)[\"']?[0-9a-fA-F]{40}\b",
]


def redacted(text: str) -> str:
    """`text` with each secret replaced by "[redacted]".

    Secrets are the values of environment variables whose names say token, key, secret, password or credential, the
    Hub's and W&B's keys in their files (token, stored_tokens, netrc), each also as JSON, an address or basic
    authentication write it, and whatever has the form of a well-known key.
    """
    return _pattern(_secrets()).sub(REDACTED, text)


def portable(path: str | Path) -> str:
    """A path, or a text with paths in it, without the home folder ("~") and the user's name ("$USER").

    The name is replaced where it is a whole component of an absolute path; a Hub id such as "user/model" stays.
    """
    text = str(path)
    for home in _homes():
        text = re.sub(rf"(?<![\w.$~-]){re.escape(home)}(?![\w.-])", HOME, text)
    for name in _users():
        if text.startswith("/") and "\n" not in text:  # a path, which may hold blanks
            text = "/".join(USER if part == name else part for part in text.split("/"))
        component = re.compile(rf"((?:^|[\s\"'`=(,:\[{{<>])(?:/[^/\s\"'`]+)*/){re.escape(name)}(?![\w.-])")
        while (replaced := component.sub(rf"\g<1>{USER}", text)) != text:
            text = replaced
    return text


def local(path: str | Path) -> str:
    """The path on this machine that `portable` wrote: with this home folder and this user's name."""
    text = str(path)
    if text == HOME or text.startswith(f"{HOME}/"):
        text = str(Path.home()) + text[len(HOME) :]
    if not text.startswith("/") or USER not in text.split("/"):
        return text
    found = ["/".join(name if part == USER else part for part in text.split("/")) for name in _users()]
    return next((one for one in found if os.path.exists(one)), found[0] if found else text)


def shareable(value: Any) -> Any:
    """`value`, a nest of dicts, lists and plain values, with each text in it redacted and portable."""
    pattern = _pattern(_secrets())
    return _each_text(value, lambda text: portable(pattern.sub(REDACTED, text)))


def without_secrets(value: Any) -> Any:
    """`value`, a nest of dicts, lists and plain values, with each text in it redacted; its paths stay."""
    pattern = _pattern(_secrets())
    return _each_text(value, lambda text: pattern.sub(REDACTED, text))


def localised(value: Any) -> Any:
    """What `shareable` made of a nest, with the paths of this machine; secrets stay taken out."""
    return _each_text(value, local)


def _each_text(value: Any, convert: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return convert(value)
    if isinstance(value, dict):
        return {_each_text(key, convert): _each_text(one, convert) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_each_text(one, convert) for one in value]
    return value


def _secrets() -> frozenset[str]:
    found: set[str] = set()
    for value in (*_from_environment(), *_from_hub_files(), *_from_netrc()):
        lines = [value.strip(), *(line.strip() for line in value.splitlines() if len(line.strip()) >= 16)]  # a PEM
        found.update(line for line in lines if _is_secret(line))
    return frozenset(found)


def _is_secret(value: str) -> bool:
    ordinary = _NUMBER.fullmatch(value) or (value.startswith(("/", "~")) and os.path.exists(os.path.expanduser(value)))
    return len(value) >= SHORTEST_SECRET and not ordinary


def _from_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if not _SECRET_NAME.search(name):
            continue
        yield value
        if name.endswith("_FILE"):  # WANDB_API_KEY_FILE and the like
            yield _text_of(Path(value))


def _from_hub_files() -> Iterator[str]:
    """The Hub's token and the stored ones, where huggingface_hub keeps them; its own reader may ask a server."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    yield _text_of(Path(os.environ.get("HF_TOKEN_PATH") or home / "token"))
    stored = configparser.ConfigParser(interpolation=None)
    try:
        stored.read_string(_text_of(Path(os.environ.get("HF_STORED_TOKENS_PATH") or home / "stored_tokens")))
    except configparser.Error:
        return
    for section in stored.sections():
        yield from (value for name, value in stored.items(section) if _SECRET_NAME.search(name))


def _from_netrc() -> Iterator[str]:
    for path in [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]:
        try:
            hosts = netrc.netrc(os.path.expanduser(path)).hosts
        except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
            continue
        yield from (password for _, _, password in hosts.values() if password)


def _text_of(path: Path) -> str:
    try:
        path = path.expanduser()
        return path.read_text(encoding="utf-8") if path.stat().st_size < 65536 else ""
    except (OSError, UnicodeDecodeError, RuntimeError, ValueError):  # RuntimeError: no home folder
        return ""


@functools.lru_cache(maxsize=8)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str]:
    """One expression for all secrets, longest first, so that none is left half."""
    written: set[str] = set()
    for secret in secrets:
        written |= {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe="")}
        written |= {base64.b64encode(f"{user}:{secret}".encode()).decode() for user in ("api", "user")}
    known = [re.escape(one) for one in sorted(written, key=lambda one: (-len(one), one))]
    return re.compile("|".join(known + _FORMS))


def _homes() -> list[str]:
    try:
        home = Path.home()
        return [str(one) for one in dict.fromkeys((home, home.resolve())) if len(one.parts) > 1]
    except (RuntimeError, OSError):
        return []


def _users() -> list[str]:
    """The names this user goes by: what the environment says, then what the system says."""
    names = [os.environ.get("USER"), os.environ.get("LOGNAME")]
    try:
        names.append(getpass.getuser())
        import pwd

        names.append(pwd.getpwuid(os.getuid()).pw_name)
    except (ImportError, KeyError, OSError):  # no such system, or a user without a name
        pass
    return [name for name in dict.fromkeys(names) if name]
