"""Rows of a dataset's splits: generated, from a local folder, or from the Hugging Face Hub."""

from __future__ import annotations

import functools
import random
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass as plain_dataclass
from dataclasses import field, replace
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ConfigDict, NonNegativeInt, ValidationError
from pydantic.dataclasses import dataclass
from tqdm.auto import tqdm

from bench.process import hub, ranks
from bench.process.environment import quiet
from bench.process.hashes import file_sha256, values_sha256
from bench.runs.renamed import as_hashed
from bench.tasks.examples import Classification
from bench.tasks.fields import Fields, problem, row_validator
from bench.tasks.jsonl import Row, read_jsonl
from bench.tasks.pictures import files, folder_sha256, parts, read_folder, read_table
from bench.tasks.reasoning import Generator

Rows = list[Row]
T = TypeVar("T")
STRICT = ConfigDict(extra="forbid")
# Carved splits are the same for every run and every method.
VALIDATION_SEED, TEST_SEED, SAMPLE_SEED = 20260103, 20260104, 20260105


@dataclass(frozen=True, config=STRICT)
class HubDataset:
    """A dataset on the Hub: repository, revision, and a configuration, or several whose rows follow one another.

    Attributes:
        columns: field -> its column, where images have other names there.
    """

    path: str
    subset: str | tuple[str, ...] | None
    revision: str
    columns: dict[str, str] | None = None

    @property
    def url(self) -> str:
        """Its page on the Hub."""
        return f"https://huggingface.co/datasets/{self.path}"

    @property
    def subsets(self) -> tuple[str | None, ...]:
        """Its configurations, in the order in which their rows follow one another."""
        return self.subset if isinstance(self.subset, tuple) else (self.subset,)


@dataclass(frozen=True, config=STRICT)
class Splits:
    """The split to train on, and the one that papers report; None if the dataset has none."""

    train: str | None
    test: str | None


@plain_dataclass(frozen=True)
class LoadedRows:
    """Rows by split, and a remark on each split that is shorter than the official one."""

    by_split: dict[str, Rows]
    incomplete: list[str] = field(default_factory=list)


@plain_dataclass(frozen=True)
class Carving:
    """How the train split is divided.

    Attributes:
        validation: number of rows for choosing learning rates and for the eval loss; as many are carved as test split
            if the dataset has none.
        train: number of rows to train on; None for all the others.
        sampling: whether those are the first rows or drawn by a fixed seed.
    """

    validation: int
    train: int | None = None
    sampling: Literal["first", "random"] = "first"


class TooFewRowsError(ValueError):
    """A train split from which nothing is left to train on.

    Attributes:
        num_rows: its rows.
        num_carved: how many splits of `validation` rows are carved out of it.
    """

    def __init__(self, name: str, num_rows: int, validation: int, num_carved: int) -> None:
        self.num_rows, self.num_carved = num_rows, num_carved
        super().__init__(
            f"task.validation_samples={validation} leaves nothing of {num_rows} training rows of {name}; take fewer"
        )


@dataclass(frozen=True, config=STRICT)
class Dataset:
    """conf/dataset/*.yaml.

    Attributes:
        folder: data.root/FOLDER/SPLIT.jsonl, of images data.root/FOLDER/SPLIT/CLASS/FILE; of the embedded tier, the
            task's name there (bench.model.embedded.items).
        fields: the fields that every row must have, and what each must hold (bench/tasks/fields.py).
        definitions: template -> lm-eval task definition.
        hub: the published dataset; None: the rows are generated, or are read from data.root alone.
        rows: official number of rows of each split.
        classification: fields and labels for a classifier; None: classifiers cannot do the task.
        runs_code: whether scoring runs code that the model wrote.
        cluster: the field that items of one fact share, which are no independent items; None where all are.
        generator: reasoning-gym's, of rows that are generated; None for the embedded tier's.
    """

    folder: str
    fields: Fields
    definitions: dict[str, str]
    hub: HubDataset | None
    splits: Splits
    rows: dict[str, NonNegativeInt]
    classification: Classification | None
    runs_code: bool = False
    cluster: str | None = None
    generator: Generator | None = None

    def __post_init__(self) -> None:
        if self.classification is None:
            return
        labels = self.classification.num_labels
        declared, needed = self.fields.get("label"), "number" if labels == 1 else tuple(range(labels))
        if declared != needed:
            raise ValueError(
                f"{self.folder} has classification.num_labels={labels}: fields.label must be {needed}, not {declared}"
            )

    def content(self, data_root: Path | None, uses: Collection[str]) -> dict[str, str]:
        """The identity of each split used: a hash of its rows or file, or the Hub's repository and revision.

        Args:
            data_root: a local folder to read instead of the Hub.
            uses: the splits, among train and test.

        Raises:
            ValueError: a file is missing.
        """
        if self.generator is not None:
            return dict.fromkeys(sorted(uses), self.generator.content(self.rows))
        if self.is_generated:
            return {use: _embedded_sha256(self.folder) for use in uses if self.generated()}
        if data_root is None:
            if self.hub is None:
                raise ValueError(f"{self.folder} is published nowhere: {self.whence}; say data.root=FOLDER")
            identified = f"{self.hub.path}/{self.hub.subset}@{self.hub.revision}"
            return dict.fromkeys(sorted(uses), identified)
        if self.is_of_images:
            folder = data_root.absolute() / self.folder
            return {use: folder_sha256(folder, self._split(data_root, use)) for use in sorted(uses)}
        paths = {use: self._file(data_root, self._source(use)) for use in sorted(uses)}
        return {use: file_sha256(path) for use, path in paths.items()}

    def load(self, data_root: Path | None, uses: Collection[str], carving: Carving) -> LoadedRows:
        """The rows of the splits used.

        Args:
            data_root: a local folder to read instead of the Hub.
            uses: the splits, among train, validation and test.
            carving: how train is divided.

        Raises:
            ValueError: a split is missing, empty or broken, the Hub cannot be reached, or a row lacks a field or holds
                in it what the field must not; the message has file or split, row and value.
        """
        if self.is_generated:
            found = self.generated()
            train = [found["train"][index] for index in _sampled(len(found["train"]), carving)]
            return LoadedRows({k: v for k, v in (found | {"train": train}).items() if k in uses})
        carved = {"train", "validation"} | ({"test"} if self.splits.test is None else set())
        rows: dict[str, Rows] = {}
        incomplete = []
        if carved & set(uses):
            train, remark = self._read(data_root, "train")
            rows = carve(train, carving, with_test=self.splits.test is None, name=self.folder)
            incomplete += remark
        if "test" in uses and self.splits.test is not None:
            rows["test"], remark = self._read(data_root, "test")
            incomplete += remark
        return LoadedRows({split: found for split, found in rows.items() if split in uses}, incomplete)

    @property
    def is_of_images(self) -> bool:
        """Whether its rows are images, which vision models classify."""
        return self.image_field is not None

    @property
    def image_field(self) -> str | None:
        """The field that holds an image; None of texts."""
        return None if self.classification is None else self.classification.image

    @property
    def is_generated(self) -> bool:
        """Whether its rows are generated: by reasoning-gym, or as the embedded tier's."""
        from bench.model.embedded.items import NAMES

        return self.generator is not None or (self.hub is None and self.folder in NAMES)

    def generated(self) -> dict[str, Rows]:
        """All rows of each split of a dataset that is generated.

        Raises:
            ValueError: as `Generator.splits`; or the embedded tier has no such task.
        """
        if self.generator is not None:
            return self.generator.splits(self.folder, self.rows)
        from bench.model.embedded.items import splits

        return splits(self.folder)

    def pinned(self) -> Dataset:
        """The dataset at a commit: of one whose revision is a branch or a tag, the commit that it is now."""
        if self.hub is None:
            return self
        revision = hub.commit("dataset", self.hub.path, self.hub.revision)
        return replace(self, hub=replace(self.hub, revision=revision))

    def check_there(self) -> None:
        """Asks whether the Hub or its cache has the dataset, which is read later.

        Raises:
            ValueError: neither has.
        """
        if self.hub is not None and (why := hub.refusal("dataset", self.hub.path, self.hub.revision)) is not None:
            raise ValueError(self._not_had(why))

    def _not_had(self, why: str) -> str:
        assert self.hub is not None
        return (
            f"dataset {self.hub.path} cannot be loaded from the Hub: {why}; or give a local folder: data.root=FOLDER, "
            f"holding {self._layout}"
        )

    def _source(self, use: str) -> str:
        name = self.splits.test if use == "test" and self.splits.test is not None else self.splits.train
        if name is None:
            raise ValueError(f"{self.folder} has no train split; it can be scored, not trained on")
        return name

    def _split(self, data_root: Path, use: str) -> str:
        """The name of a split of images whose folders are there."""
        split, folder = self._source(use), data_root.absolute() / self.folder
        if missing := [str(folder / part) for part in parts(split) if not (folder / part).is_dir()]:
            there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else "no such folder"
            raise ValueError(
                f"{self.folder} has no {split} split: {missing[0]} does not exist ({there}); {self.whence}"
            )
        return split

    def _file(self, data_root: Path, split: str) -> Path:
        path = data_root.absolute() / self.folder / f"{split}.jsonl"
        if not path.is_file():
            there = sorted(p.name for p in path.parent.glob("*.jsonl")) if path.parent.is_dir() else "no such folder"
            raise ValueError(f"{self.folder} has no {split} split: {path} does not exist ({there}); {self.whence}")
        return path

    def num_local(self, data_root: Path, split: str) -> int:
        """Number of lines of a split's file, or of its images.

        Raises:
            ValueError: it is missing.
        """
        if self.is_of_images:
            return len(files(data_root.absolute() / self.folder, split))
        with self._file(data_root, split).open("rb") as lines:
            return sum(1 for line in lines if line.strip())

    @property
    def whence(self) -> str:
        """Where the dataset is published, and what a local copy must look like."""
        if self.hub is None:
            return f"data.root must hold {self._layout}"
        subset = f" ({self.hub.subset})" if isinstance(self.hub.subset, str) else ""
        return f"it is published at {self.hub.url}{subset}, and data.root must hold {self._layout}"

    @property
    def _layout(self) -> str:
        return f"{self.folder}/SPLIT{'/CLASS/*.png' if self.is_of_images else '.jsonl'}"

    def is_fixed(self, data_root: Path | None) -> bool:
        """Whether `content` says which rows these are: not so where a revision of the Hub is no commit."""
        return self.hub is None or data_root is not None or hub.COMMIT.fullmatch(self.hub.revision) is not None

    def _read(self, data_root: Path | None, use: str) -> tuple[Rows, list[str]]:
        split = self._source(use)
        official = self.rows.get(split, 0)
        if data_root is None:
            where, found = f"{self.folder} {split}", self._from_hub(split)
        elif self.image_field is not None and self.classification is not None:
            folder = data_root.absolute() / self.folder
            where = str(folder / self._split(data_root, use))
            found = read_folder(folder, split, self.classification.num_labels, self.image_field)
        else:
            where = str(self._file(data_root, split))
            found = _placed(Path(where))
        rows = list(bar(self._checked(found), f"read {self.folder} {split}", "row", official or None))
        if not rows:
            raise ValueError(f"{where} is empty; {self.whence}")
        return rows, [] if len(rows) >= official else [f"{self.folder} {split}: {len(rows)} of {official} rows"]

    def _checked(self, rows: Iterator[tuple[str, Row]]) -> Iterator[Row]:
        validator = row_validator(self.fields)
        for place, row in rows:
            try:
                validator.validate_python(row)
            except ValidationError as error:
                if missing := [name for name in self.fields if name not in row]:
                    raise ValueError(
                        f"{place} has no {' and no '.join(missing)}, but {', '.join(sorted(row))}; expected are "
                        f"{', '.join(self.fields)}, as {self.whence}"
                    ) from None
                raise ValueError(
                    f"{place}: {problem(error)}; correct the row or leave it out (data.root=FOLDER takes local files)"
                ) from None
            yield row

    def _from_hub(self, split: str) -> Iterator[tuple[str, Row]]:
        import datasets

        published = self.hub
        assert published is not None
        hub.ask()
        path, revision = published.path, hub.commit("dataset", published.path, published.revision)
        # Without the Hub, load_dataset takes whichever revision its cache was given last: each has a cache of its own.
        cache = f"{datasets.config.HF_DATASETS_CACHE}/{revision}"
        for subset in published.subsets:
            try:
                with quiet("datasets"):  # which calls this commit the latest that it has
                    loaded = datasets.load_dataset(path, subset, revision=revision, split=split, cache_dir=cache)
            except (*hub.errors(), datasets.exceptions.DatasetsError, ValueError) as error:
                raise ValueError(self._not_had(hub.reason(error, "dataset", path, revision))) from error
            name = " ".join(filter(None, (path, subset, split)))
            if self.image_field is not None:
                loaded = read_table(loaded, published.columns or {}, list(self.fields), self.image_field)
            yield from ((f"{name}, row {number}", row) for number, row in enumerate(loaded, 1))


def bar(steps: Iterable[T], what: str, unit: str, total: int | None = None) -> Iterable[T]:
    """The same with a progress bar on rank 0 if they take more than a second."""
    return tqdm(steps, desc=what, unit=unit, total=total, leave=False, delay=1, disable=ranks.rank() > 0)


def _placed(path: Path) -> Iterator[tuple[str, Row]]:
    return ((f"{path}:{number}", row) for number, row in read_jsonl(path))


def carve(train: Rows, carving: Carving, with_test: bool, name: str) -> dict[str, Rows]:
    """Divides train into train, validation and, if asked, test: disjoint, drawn by fixed seeds, in file order.

    If only some rows are trained on, validation and test are carved from the others as far as these suffice.

    Args:
        train: the rows of the published train split.
        carving: the numbers of rows.
        with_test: whether the dataset has no test split.
        name: the dataset's, for the message.

    Raises:
        TooFewRowsError: nothing is left to train on.
    """
    asked = set(_sampled(len(train), carving))
    rows: dict[str, Rows] = {}
    left = set(range(len(train)))
    seeds = {"validation": VALIDATION_SEED} | ({"test": TEST_SEED} if with_test else {})
    for split, seed in seeds.items():
        spare = sorted(left - asked) if len(asked) < len(train) else []
        pool = spare if len(spare) >= carving.validation else sorted(left)
        if carving.validation >= len(left):
            raise TooFewRowsError(name, len(train), carving.validation, num_carved=len(seeds))
        drawn = set(random.Random(seed).sample(pool, carving.validation))
        rows[split] = [train[index] for index in sorted(drawn)]
        left -= drawn
    return rows | {"train": [train[index] for index in sorted(left & asked)]}


def _sampled(num_rows: int, carving: Carving) -> list[int]:
    if carving.train is None or carving.train >= num_rows:
        return list(range(num_rows))
    if carving.sampling == "first":
        return list(range(carving.train))
    return sorted(random.Random(SAMPLE_SEED).sample(range(num_rows), carving.train))


@functools.cache
def _embedded_sha256(name: str) -> str:
    from bench.model.embedded.items import splits

    return values_sha256(as_hashed(splits(name)))
