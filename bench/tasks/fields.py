"""The fields of a dataset's rows: what each must hold, declared in conf/dataset/*.yaml and checked by pydantic.

Rows of the Hub and of a local file are judged alike, and nothing is converted: a label "0", 0.0 or False is not 0.

- `text`: has more than spaces. `text_or_empty`: any text; for fields that published rows may leave empty.
- `texts`, `four_texts`: a list of texts, which may be empty.
- `number`: finite.
- `choices`: an object with a list of texts, `text`, and their names, `label`; `choice`: one of the names in `choices`.
- `image`: the text of an image file, as bench.model.images writes it; whether it can be read is seen later.
- a list of values: one of these.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from pydantic import StrictInt, StrictStr
from pydantic_core import SchemaValidator, ValidationError
from pydantic_core import core_schema as cs

Holds = (
    Literal["text", "text_or_empty", "texts", "four_texts", "number", "choices", "choice", "image"]
    | tuple[StrictInt | StrictStr, ...]
)
Fields = dict[str, Holds]


def row_validator(fields: Fields) -> SchemaValidator:
    """Its `validate_python` raises pydantic's ValidationError for a row that lacks a field or holds something else."""
    row = _object({name: _field(holds) for name, holds in fields.items()})
    for name, holds in fields.items():
        if holds == "choice":
            row = cs.no_info_after_validator_function(partial(_named, name), row)
    return SchemaValidator(row)


def problem(error: ValidationError) -> str:
    """What is wrong in a row, of several things the first: field, value and what it must be, in one line."""
    first = error.errors()[0]
    field, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    return f"{field}={first['input']!r:.80}: {message}" if field else message


def _field(holds: Holds) -> cs.CoreSchema:
    if isinstance(holds, tuple):  # a literal alone would take True and 1.0 for 1
        typed = cs.union_schema([cs.int_schema(strict=True), cs.str_schema(strict=True)])
        allowed: list[Any] = list(holds)
        return _must(f"be {' or '.join(map(repr, holds))}", cs.chain_schema([typed, cs.literal_schema(allowed)]))
    filled = _must("be a text that is not empty", cs.str_schema(strict=True, pattern=r"\S"))
    text = _must("be a text", cs.str_schema(strict=True))
    number = _must("be a finite number", cs.float_schema(strict=True, allow_inf_nan=False))
    some = cs.list_schema(filled, min_length=1, strict=True)
    return {
        "text": filled,
        "text_or_empty": text,
        "texts": cs.list_schema(text, strict=True),
        "four_texts": _must("have four texts", cs.list_schema(text, min_length=4, max_length=4, strict=True)),
        "number": number,
        "choices": cs.no_info_after_validator_function(_paired, _object({"text": some, "label": some})),
        "choice": filled,
        "image": _must("be an image that is not empty", cs.str_schema(strict=True, min_length=1)),
    }[holds]


def _object(fields: dict[str, cs.CoreSchema]) -> cs.CoreSchema:
    return cs.typed_dict_schema({name: cs.typed_dict_field(field) for name, field in fields.items()})


def _must(what: str, schema: cs.CoreSchema) -> cs.CoreSchema:
    return cs.custom_error_schema(
        schema, custom_error_type="value_error", custom_error_context={"error": f"must {what}"}
    )


def _paired(choices: dict[str, list[str]]) -> dict[str, list[str]]:
    if len(choices["text"]) != len(choices["label"]):
        raise ValueError("must have as many labels as texts")
    return choices


def _named(name: str, row: dict[str, Any]) -> dict[str, Any]:
    if row[name] not in row["choices"]["label"]:
        raise ValueError(f"{name}={row[name]!r} is none of the choices {', '.join(row['choices']['label'])}")
    return row
