"""Rows that the package reasoning-gym generates: other items for each split, the same ones on every machine.

Its item number i of seed s is drawn from the random stream s + i, so the sets of neighbouring seeds share nearly all
items; and some generators draw items that depend on the size of the set. Here every split has a seed far from the
others', a set of a fixed size, and no item that another split has.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from bench.process.hashes import values_sha256
from bench.tasks.jsonl import Row

SEEDS = {"test": 200_000_000, "validation": 100_000_000, "train": 0}  # the first one keeps an item that two would have
SPARE = 2  # times as many items as rows are drawn, because some occur twice
SHARES = {"test": 0.2, "validation": 0.2, "train": 0.6}  # of the kinds of items, where each split has its own


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Generator:
    """One of reasoning-gym's generators, and what is taken of its items.

    Attributes:
        task: its name in the package.
        version: of the package; another one may generate other items.
        options: the generator's own settings.
        answer: the entry of an item's metadata that is learnt as its answer; None: the answer itself.
        kinds: the generator's list of the kind of each item, such as its template, of which each split has its own;
            None: splits share kinds and no item.
        sha256: of all rows; None: they are generated twice and compared.
    """

    task: str
    version: str
    options: dict[str, Any]
    answer: str | None = None
    kinds: str | None = None
    sha256: str | None = None

    def content(self, num_rows: Mapping[str, int]) -> str:
        """The identity of the rows, without generating them."""
        return f"reasoning-gym {self.version} {values_sha256([asdict(self), dict(num_rows)])}"

    def splits(self, name: str, num_rows: Mapping[str, int]) -> dict[str, list[Row]]:
        """The rows of each split, memoised.

        Args:
            name: the dataset's, for messages.
            num_rows: of each split.

        Raises:
            ValueError: reasoning-gym, or this version of it, is not installed; it has no such task; the task does not
                fix its items by its seed, or has fewer different items than are asked for.
        """
        return _splits(name, json.dumps([asdict(self), dict(num_rows)]))


@functools.lru_cache(maxsize=32)
def _splits(name: str, key: str) -> dict[str, list[Row]]:
    settings, num_rows = json.loads(key)
    generator = Generator(**settings)
    _check_installed(name, generator.version)
    rows = _generated(name, generator, num_rows)
    wanted = values_sha256(_generated(name, generator, num_rows)) if generator.sha256 is None else generator.sha256
    if (found := values_sha256(rows)) != wanted:
        raise ValueError(
            f"{name}: reasoning-gym's {generator.task} does not fix its items by its seed: their SHA-256 is {found}, "
            f"not {wanted}; take another task"
        )
    return rows


def _check_installed(name: str, version: str) -> None:
    try:
        found = installed_version("reasoning-gym")
    except PackageNotFoundError:
        raise ValueError(f"{name} needs reasoning-gym: pip install reasoning-gym=={version}") from None
    if found != version:
        raise ValueError(
            f"{name} has the items of reasoning-gym {version}, and {found} is installed: pip install "
            f"reasoning-gym=={version}"
        )


def _generated(name: str, generator: Generator, num_rows: Mapping[str, int]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    seen: set[str] = set()
    for split, seed in SEEDS.items():
        rows[split] = []
        for row in _items(name, generator, split, seed, num_rows[split]):
            if len(rows[split]) < num_rows[split] and row["question"] not in seen:
                seen.add(row["question"])
                rows[split].append(row)
        if len(rows[split]) < num_rows[split]:
            raise ValueError(
                f"{name}: reasoning-gym's {generator.task} has {len(rows[split])} different items for {split}, and "
                f"rows.{split}={num_rows[split]} are asked for; ask for fewer, or change its options"
            )
    return rows


def _items(name: str, generator: Generator, split: str, seed: int, num_rows: int) -> Iterator[Row]:
    import reasoning_gym

    spare = SPARE if generator.kinds is None else SPARE / SHARES[split]
    settings = {"seed": seed, "size": round(spare * num_rows)} | generator.options
    try:
        made = reasoning_gym.create_dataset(generator.task, **settings)
    except (ValueError, TypeError, AssertionError) as error:
        raise ValueError(f"{name}: reasoning-gym's {generator.task} cannot be made: {error}") from error
    indices: Sequence[int] = range(len(made))
    if generator.kinds is not None:
        kinds = getattr(made, generator.kinds)
        indices = [index for index in indices if _split_of(kinds[index]) == split]
    for index in indices:
        item = made[index]
        answer = item["answer"] if generator.answer is None else item["metadata"][generator.answer]
        yield {"question": item["question"].strip(), "answer": str(answer).strip()}


def _split_of(kind: Any) -> str:
    """The split that a kind of item belongs to, whichever other kinds there are."""
    (split,) = random.Random(str(kind)).choices(list(SHARES), weights=list(SHARES.values()))
    return split
