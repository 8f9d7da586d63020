"""Rows of a task's splits: generated (embedded tier), from a local folder, or from the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

Rows = list[dict[str, Any]]
SELECTION_SEED = 20260103  # the carved selection split is the same for every run and every method


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class HubDataset:
    """A dataset on the Hub: repository, configuration and revision, and the splits it is read from."""

    path: str
    subset: str | None
    revision: str
    train_split: str
    test_split: str


def read_jsonl(path: Path) -> Rows:
    """The objects of a JSON-lines file.

    Raises:
        ValueError: the file does not exist, or a line is not a JSON object.
    """
    rows = []
    with _existing(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number} is not JSON: {error}") from None
    return rows


def _existing(path: Path) -> Path:
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*.jsonl")) if path.parent.is_dir() else "no such folder"
        raise ValueError(f"{path} does not exist ({there}); data.root must hold NAME/SPLIT.jsonl")
    return path


def _hub_rows(dataset: HubDataset) -> dict[str, Rows]:
    import datasets

    try:
        loaded = {
            split: datasets.load_dataset(dataset.path, dataset.subset, revision=dataset.revision, split=name)
            for split, name in (("train", dataset.train_split), ("test", dataset.test_split))
        }
    except (ConnectionError, OSError) as error:
        raise ValueError(
            f"cannot load {dataset.path} from the Hub ({type(error).__name__}); "
            "give a local folder with data.root=FOLDER, holding NAME/SPLIT.jsonl"
        ) from error
    return {split: list(rows) for split, rows in loaded.items()}


def carve_selection(rows: dict[str, Rows], num_samples: int) -> dict[str, Rows]:
    """Moves `num_samples` rows of train, drawn by a fixed seed, into a split named selection."""
    train = rows["train"]
    if num_samples >= len(train):
        raise ValueError(f"task.selection_samples={num_samples} leaves nothing of {len(train)} training rows")
    drawn = set(random.Random(SELECTION_SEED).sample(range(len(train)), num_samples))
    selection = [train[index] for index in sorted(drawn)]
    return rows | {"train": [row for i, row in enumerate(train) if i not in drawn], "selection": selection}


def load_rows(name: str, hub: HubDataset | None, data_root: Path | None, selection_samples: int) -> dict[str, Rows]:
    """The rows of train, selection and test.

    Args:
        name: the embedded task, or the folder below data_root.
        hub: where the data is published; None for the embedded tier.
        data_root: a local folder to read instead of the Hub.
        selection_samples: how many training rows become the selection split; the embedded tier has its own.

    Raises:
        ValueError: a file is missing or broken, or the Hub cannot be reached.
    """
    if hub is None:
        from bench.embedded.items import splits

        return splits(name)
    if data_root is None:
        return carve_selection(_hub_rows(hub), selection_samples)
    rows = {split: read_jsonl(data_root / name / f"{split}.jsonl") for split in ("train", "test")}
    return carve_selection(rows, selection_samples)


def content_id(name: str, hub: HubDataset | None, data_root: Path | None) -> str:
    """What identifies the data: a hash of the rows or files, or the Hub's repository and revision.

    Raises:
        ValueError: a file is missing.
    """
    if hub is None:
        from bench.embedded.items import splits

        return rows_sha256(splits(name))
    if data_root is None:
        return f"{hub.path}/{hub.subset}@{hub.revision}"
    digest = hashlib.sha256()
    for split in ("train", "test"):
        digest.update(_existing(data_root / name / f"{split}.jsonl").read_bytes())
    return digest.hexdigest()


def rows_sha256(rows: Mapping[str, Any]) -> str:
    """A hash of every field of every row of every split, of one definition or of several by name."""
    text = json.dumps(rows, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
