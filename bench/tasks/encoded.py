"""Encoded examples as flat tensors, as the cache keeps them; an Example is made when it is asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bench.model.loss import IGNORED
from bench.tasks.examples import Example, Picture


class Examples(Dataset[Example]):
    """Examples in order, of one kind of model.

    Args:
        tensors: input_ids (tokens of all examples,), lengths (examples,), truncated (examples,), token_type_ids
            (tokens,) if the tokenizer has them, and the labels: of a causal model label_starts (examples,), the number
            of tokens that are none; of a sequence-to-sequence model labels (label tokens,) and label_lengths
            (examples,); of an encoder label (examples,).
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors
        self._ends = tensors["lengths"].cumsum(0)
        self._label_ends = tensors["label_lengths"].cumsum(0) if "label_lengths" in tensors else None

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Self:
        """The same examples as tensors."""
        return cls(_flat(examples))

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """The examples of all parts, one part after another."""
        if len(parts) == 1:
            return parts[0]
        return cls({name: torch.cat([part._tensors[name] for part in parts]) for name in parts[0]._tensors})

    def picked(self, indices: Tensor) -> Examples:
        """The examples of these indices, in this order."""
        if torch.equal(indices, torch.arange(len(self))):
            return self
        lengths, label_lengths = (self._tensors.get(name) for name in ("lengths", "label_lengths"))
        of_tokens = {"input_ids": lengths, "token_type_ids": lengths, "labels": label_lengths}
        return Examples(
            {
                name: values[indices] if (each := of_tokens.get(name)) is None else values[_positions(each, indices)]
                for name, values in self._tensors.items()
            }
        )

    def to_entry(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """For bench.process.store."""
        return self._tensors, {}

    @classmethod
    def from_entry(cls, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Self:
        """The inverse of `to_entry`."""
        return cls(tensors)

    @property
    def lengths(self) -> Tensor:
        """Number of input tokens of each example: (examples,)."""
        return self._tensors["lengths"]

    @property
    def num_tokens(self) -> Tensor:
        """Number of tokens of each example, those of a target included: (examples,)."""
        return self.lengths + self._tensors.get("label_lengths", 0)

    @property
    def truncated(self) -> Tensor:
        """Whether tokens of an example were cut off: (examples,)."""
        return self._tensors["truncated"]

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Example:
        """The example of an index."""
        end = int(self._ends[index])
        tokens = slice(end - int(self.lengths[index]), end)
        ids = self._tensors["input_ids"][tokens].tolist()
        types = self._tensors["token_type_ids"][tokens].tolist() if "token_type_ids" in self._tensors else None
        return Example(ids, self._labels(index, ids), types, bool(self.truncated[index]))

    def _labels(self, index: int, ids: list[int]) -> list[int] | int | float:
        if "label" in self._tensors:
            return self._tensors["label"][index].item()
        if self._label_ends is not None:
            end = int(self._label_ends[index])
            return self._tensors["labels"][end - int(self._tensors["label_lengths"][index]) : end].tolist()
        start = int(self._tensors["label_starts"][index])
        return [IGNORED] * start + ids[start:]


class Pictures(Dataset[Picture]):
    """Images in order, with the same face as `Examples`; no cache keeps them, as they are read when they are needed.

    Args:
        pictures: the examples.
    """

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self._pictures = list(pictures)

    @classmethod
    def of(cls, pictures: Sequence[Picture]) -> Self:
        """The same examples."""
        return cls(pictures)

    @classmethod
    def joined(cls, parts: Sequence[Pictures]) -> Self:
        """The examples of all parts, one part after another."""
        return cls(list(itertools.chain.from_iterable(parts)))

    def picked(self, indices: Tensor) -> Pictures:
        """The examples of these indices, in this order."""
        return Pictures([self._pictures[index] for index in indices.tolist()])

    @property
    def lengths(self) -> Tensor:
        """Number of patches of each example: (examples,)."""
        return torch.tensor([picture.num_tokens for picture in self._pictures], dtype=torch.long)

    @property
    def truncated(self) -> Tensor:
        """Whether something of an example was cut off, which is never: (examples,)."""
        return torch.zeros(len(self), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self._pictures)

    def __iter__(self) -> Iterator[Picture]:
        return iter(self._pictures)

    def __getitem__(self, index: int) -> Picture:
        """The example of an index."""
        return self._pictures[index]


def _positions(lengths: Tensor, indices: Tensor) -> Tensor:
    """Where the tokens of the examples of some indices are, one example after another."""
    starts, chosen = (lengths.cumsum(0) - lengths)[indices], lengths[indices]
    return torch.arange(int(chosen.sum())) + torch.repeat_interleave(starts - (chosen.cumsum(0) - chosen), chosen)


def _flat(examples: Sequence[Example]) -> dict[str, Tensor]:
    def flat(values: Iterable[Iterable[int]]) -> Tensor:
        return torch.tensor(list(itertools.chain.from_iterable(values)), dtype=torch.int32)

    labels = [example.labels for example in examples]
    tensors = {
        "input_ids": flat(example.input_ids for example in examples),
        "lengths": torch.tensor([len(example.input_ids) for example in examples], dtype=torch.long),
        "truncated": torch.tensor([example.truncated for example in examples], dtype=torch.bool),
    }
    types = [example.token_type_ids for example in examples if example.token_type_ids is not None]
    if types:
        tensors["token_type_ids"] = flat(types)
    sequences = [label for label in labels if isinstance(label, list)]
    if not sequences:
        numbers = torch.float64 if any(isinstance(label, float) for label in labels) else torch.long
        return tensors | {"label": torch.tensor(labels, dtype=numbers)}
    if sequences[0][0] == IGNORED:
        starts = [next(i for i, label in enumerate(own) if label != IGNORED) for own in sequences]
        return tensors | {"label_starts": torch.tensor(starts, dtype=torch.int32)}
    lengths = torch.tensor([len(label) for label in sequences], dtype=torch.long)
    return tensors | {"labels": flat(sequences), "label_lengths": lengths}
