"""The types of a record's parts, which everything that reads records relies on; checked once, where they are read.

Imports no torch. What is not named here may hold whatever JSON can.
"""

from __future__ import annotations

import functools
import json
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from bench.runs.names import is_name

DEEPEST = 32  # containers in containers; the deepest that is written has 8


def _is_folder_name(text: str) -> str:
    if not is_name(text):
        raise ValueError("no name of a file or folder")
    return text


Name = Annotated[str, AfterValidator(_is_folder_name)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Number = float | None  # a loss or a score; one that overflowed is infinite


class _Named(TypedDict):
    name: str


class _Rank(TypedDict, total=False):
    name: str
    r: Count
    lora_alpha: float


class _Train(TypedDict, total=False):
    learning_rate: Number
    max_steps: Count


class _Config(TypedDict):
    method: _Named
    task: _Named
    model: _Named
    seed: NotRequired[Count]
    study: NotRequired[str]
    results_dir: NotRequired[str]
    rank: NotRequired[_Rank]
    train: NotRequired[_Train]
    score: NotRequired[dict[str, Any]]
    adapter: NotRequired[dict[str, Any]]


class _Identity(TypedDict, total=False):
    seed: Count
    method: dict[str, Any]
    rank: dict[str, Any]
    task: dict[str, Any]
    model: dict[str, Any]
    train: dict[str, Any]
    score: dict[str, Any]


class _Environment(TypedDict, total=False):
    fingerprint: str
    python: str
    versions: dict[str, str | None]
    hardware: dict[str, str | int | None]
    code: dict[str, Any]


class _Model(TypedDict, total=False):
    name: str
    kind: str
    revision: str | None
    num_parameters: Count


class _Data(TypedDict, total=False):
    name: str
    sha256: str
    num_train: Count
    num_dropped: Count
    num_truncated: Count
    contaminated: dict[str, Count]
    incomplete: list[str]


class _Phase(TypedDict):
    seconds: Seconds
    peak_bytes: NotRequired[Count | None]


class _Calibration(TypedDict, total=False):
    total_seconds: Seconds
    peak_bytes: Count | None
    num_samples: Count
    loss: Number
    largest_error: Number
    exact_layers: list[str]
    seconds: dict[str, Seconds]


class _Layer(TypedDict):
    name: str
    r: NotRequired[Count | None]
    weight_norm: NotRequired[Number]
    drift: NotRequired[Number]


class _Initialization(TypedDict, total=False):
    num_trainable: Count
    num_head: Count
    logit_change: Number
    calibration: _Calibration | None
    calibration_ids: list[Count]
    layers: list[_Layer]


class _Training(TypedDict, total=False):
    num_steps: Count
    num_tokens: Count
    seconds: Seconds
    loss: Number
    eval_loss: Number


class _Score(TypedDict):
    task: str
    metric: str
    value: Number
    stderr: Number
    num_examples: Count
    higher_is_better: bool
    majority: NotRequired[Number]


class _Scoring(TypedDict, total=False):
    backend: str
    batch_size: Count
    truncated: dict[str, Count]
    merged: dict[str, Count] | None


class _Error(TypedDict, total=False):
    type: str
    message: str
    step: Count | None
    traceback: str | None


class _File(TypedDict):
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Count


@with_config(ConfigDict(strict=True))  # which its parts inherit
class _Record(TypedDict):
    run_id: Name
    label: str
    environment: _Environment
    command: NotRequired[str | None]
    model: NotRequired[_Model]
    data: NotRequired[_Data]
    phases: NotRequired[dict[str, _Phase]]
    initialization: NotRequired[_Initialization]
    training: NotRequired[_Training]
    scores: NotRequired[list[_Score]]
    scoring: NotRequired[_Scoring]
    error: NotRequired[_Error | None]
    attempts: NotRequired[list[dict[str, Any]]]
    files: NotRequired[dict[Name, _File]]
    schema_version: int
    config: _Config
    identity: _Identity
    status: Literal["completed", "failed", "interrupted"]


def parsed(text: str) -> dict[str, Any]:
    """What the text of a record.json says, before any part of it is looked at.

    Raises:
        ValueError: it is no JSON object, is nested too deeply, or holds half a character.
    """
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    _check_depth(content)
    if "\\ud" in text or "\\uD" in text:  # which no file could be written with
        json.dumps(content, ensure_ascii=False).encode()
    return content


def checked(content: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record as they are, with every part of the type that readers expect.

    Args:
        content: of record.json, without its checksum.

    Raises:
        ValueError: a field is missing, unknown, or of another type; one line.
    """
    if unknown := sorted(set(content) - set(_Record.__annotations__)):
        raise ValueError(f"unknown fields: {', '.join(unknown)[:100]!r}")
    try:
        _adapter().validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part)[:40] for part in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ValueError(" ".join(f"{where}: {first['msg'].lower()}{more}".split())) from None
    return content


@functools.cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(_Record)


def _check_depth(content: dict[str, Any]) -> None:
    level: list[Any] = [content]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for one in level:
            inner += [v for v in (one.values() if isinstance(one, dict) else one) if isinstance(v, dict | list)]
        if not inner:
            return
        level = inner
    raise ValueError(f"nested more than {DEEPEST} deep")
