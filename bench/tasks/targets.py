"""Prompts and targets of the first rows of a scored split, encoded as training encodes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch

from bench.model.loss import IGNORED
from bench.tasks.encoded import Examples, Pictures
from bench.tasks.examples import Picture

if TYPE_CHECKING:
    from bench.process.store import Entry
    from bench.tasks.examples import Example
    from bench.tasks.reader import Reader


@dataclass(frozen=True)
class Targets:
    """The examples of rows, whose loss is a score.

    Attributes:
        examples: in the order of the rows; a row of language modelling has one for each of its windows.
        rows: (examples,) number of each example's row, from 0.
        hashes: of each row, as lm-eval hashes its items.
    """

    examples: Examples | Pictures
    rows: torch.Tensor
    hashes: tuple[str, ...]

    @classmethod
    def of(cls, docs: Sequence[dict[str, Any]], encoded: Callable[[dict[str, Any]], list[Any]], reader: Reader) -> Self:
        """Encodes rows.

        Args:
            docs: the rows.
            encoded: the examples of a row.
            reader: the model's; of a causal model's example that is longer than its limit the start is cut.
        """
        limit = reader.limit
        of_rows = [[_cut(example, limit) for example in encoded(doc)] for doc in docs]
        numbers = torch.tensor([row for row, examples in enumerate(of_rows) for _ in examples], dtype=torch.long)
        examples = reader.examples.of([example for examples in of_rows for example in examples])
        return cls(examples, numbers, tuple(map(_hash, docs)))

    def to_entry(self) -> Entry:
        """For bench.process.store."""
        assert isinstance(self.examples, Examples), "no cache keeps images"
        tensors, _ = self.examples.to_entry()
        return tensors | {"rows": self.rows}, {"hashes": self.hashes}

    @classmethod
    def from_entry(cls, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> Self:
        """The inverse of `to_entry`."""
        rows = tensors.pop("rows")
        return cls(Examples(tensors), rows, tuple(facts["hashes"]))


def _cut(example: Example | Picture, limit: int) -> Example | Picture:
    if (
        isinstance(example, Picture)
        or not isinstance(example.labels, list)
        or example.labels[0] != IGNORED
        or len(example.input_ids) <= limit
    ):
        return example
    labels = [IGNORED, *example.labels[1 - limit :]]  # nothing predicts the first token
    return replace(example, input_ids=example.input_ids[-limit:], labels=labels, truncated=True)


def _hash(doc: dict[str, Any]) -> str:
    from lm_eval.utils import handle_non_serializable, hash_string

    return hash_string(json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False))
