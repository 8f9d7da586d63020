"""One dataset under one template: its rows, their examples and its lm-eval task, read once and kept for other runs."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import torch

from bench.model.kinds import CLASSIFIERS
from bench.process.hashes import values_sha256
from bench.process.provenance import version
from bench.process.store import Cache, Entry, Storable
from bench.runs.renamed import as_hashed
from bench.tasks import contamination
from bench.tasks.data import Carving, Dataset, LoadedRows, Rows, bar
from bench.tasks.definition_files import users_sha256
from bench.tasks.encoded import Examples
from bench.tasks.examples import Pair
from bench.tasks.pictures import check_images
from bench.tasks.reader import Reader
from bench.tasks.targets import Targets

if TYPE_CHECKING:
    from bench.tasks.chat import Chat
    from bench.tasks.definition import InMemoryTask

OFF = Cache(enabled=False, dir=None, max_gb=1.0)
AT_A_TIME = 1000  # rows that are encoded together; the tokenizer's own objects take 100 bytes a token
LIBRARIES = ("lm-eval", "jinja2", "datasets", "pyarrow", "transformers", "tokenizers")
T = TypeVar("T", bound=Storable)


class Known(NamedTuple):
    """What is known of rows that were read and found sound.

    Attributes:
        sha256: a hash of the rows of all splits.
        num_rows: number of rows by split.
        incomplete: a remark on each split that is shorter than the official one.
        scored: the rows of the split to score; None if they are to be read again.
        num_converted: images that become RGB.
    """

    sha256: str
    num_rows: dict[str, int]
    incomplete: list[str]
    scored: Rows | None
    num_converted: int = 0

    def to_entry(self) -> Entry:
        """For bench.process.store."""
        facts = self._asdict()
        return {
            "scored": torch.frombuffer(bytearray(json.dumps(facts.pop("scored")), "ascii"), dtype=torch.uint8)
        }, facts

    @classmethod
    def from_entry(cls, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> Self:
        """The inverse of `to_entry`."""
        return cls(**facts, scored=json.loads(tensors["scored"].numpy().tobytes()))


class Count(NamedTuple):
    """A number of items."""

    items: int

    def to_entry(self) -> Entry:
        """For bench.process.store."""
        return {}, self._asdict()

    @classmethod
    def from_entry(cls, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> Self:
        """The inverse of `to_entry`."""
        return cls(**facts)


@dataclass(frozen=True)
class Source:
    """A dataset under one template, divided in one way; rows are read when they are needed.

    Attributes:
        name: the dataset's.
        definition: the template's lm-eval task definition.
        data_root: a local folder to read instead of the Hub.
        uses: the splits, among train, validation and test.
        carving: how train is divided.
        scored: the split to score; None if only other datasets are scored.
        content: the identity of the published splits that these are made of, as `Dataset.content` has it.
    """

    name: str
    dataset: Dataset
    definition: str
    data_root: Path | None
    uses: frozenset[str]
    carving: Carving
    scored: str | None
    content: dict[str, str]
    _kept: dict[str, Any] = field(default_factory=dict)
    _texts: dict[tuple[str, str], list[Pair]] = field(default_factory=dict)

    @functools.cached_property
    def key(self) -> str:
        """A hash of all that the rows and their texts depend on."""
        return self._key(self.content, sorted(self.uses), self.scored)

    def _key(self, *content: Any) -> str:
        of = [self.name, asdict(self.dataset), self.definition, asdict(self.carving)]
        of += filter(None, [users_sha256(self.definition)])
        return values_sha256([*of, content, _made_by()])

    def _once(self, key: Sequence[Any], title: str, compute: Callable[[], T], kind: type[T], cache: Cache) -> T:
        """What `compute` gives, memoised, and from the cache if it holds it."""
        name = values_sha256(key)
        if name not in self._kept:
            kept = cache if self.dataset.is_fixed(self.data_root) else replace(cache, enabled=False)
            self._kept[name], _ = kept.fetch(name, f"{self.name}, {title}", compute, kind)
        return self._kept[name]

    @functools.cached_property
    def _loaded(self) -> LoadedRows:
        loaded = self.dataset.load(self.data_root, self.uses, self.carving)
        if self.dataset.content(self.data_root, self.content) != self.content:
            raise ValueError(
                f"the files of {self.name} below {self.data_root} were changed while a run began; try again"
            )
        return loaded

    @property
    def rows(self) -> dict[str, Rows]:
        """Rows by split."""
        return self._loaded.by_split

    def known(self, cache: Cache) -> Known:
        """What is known of the rows; what the cache does not know is read and checked.

        Raises:
            ValueError: as `Dataset.load`; an image cannot be read; or a label is none of the choices: lm-eval would
                count the row as wrong, and none can be learnt. The message has label, choices and row.
        """
        return self._once(("rows", self.key), f"rows of {', '.join(sorted(self.uses))}", self._check, Known, cache)

    def _check(self) -> Known:
        # The classes of a classification are among its fields' values, which were checked when the rows were read.
        for split in self.rows if self.dataset.classification is None else ():
            self._pairs(split)
        scored = None if self.scored is None else self.rows[self.scored]
        if json.loads(json.dumps(scored, default=str)) != scored:  # of the Hub, whose columns can hold other values
            scored = None
        num_rows = {split: len(rows) for split, rows in self.rows.items()}
        return Known(
            values_sha256(as_hashed(self.rows)), num_rows, self._loaded.incomplete, scored, self._num_converted()
        )

    def evaluation(
        self, score_split: str, num_fewshot: int, cache: Cache = OFF, chat: Chat | None = None
    ) -> InMemoryTask:
        """The lm-eval task over a split.

        Raises:
            ValueError: as `load_definition`.
        """
        kept = self.known(cache).scored if score_split == self.scored else None
        rows = {score_split: self.rows[score_split] if kept is None else kept}
        return self._task(rows | ({"train": self.rows["train"]} if num_fewshot else {}), score_split, num_fewshot, chat)

    def _task(self, rows: dict[str, Rows], split: str, num_fewshot: int = 0, chat: Chat | None = None) -> InMemoryTask:
        from bench.tasks.definition import load_definition

        if self.dataset.runs_code:  # its metric tries itself out when it is imported
            os.environ["HF_ALLOW_CODE_EVAL"] = "1"
        task = load_definition(self.name, self.definition, rows, split, num_fewshot, self.dataset.classification, chat)
        task.cluster = self.dataset.cluster
        return task

    def _num_converted(self) -> int:
        """How many images become RGB; reads all of them, which finds those that cannot be read."""
        if (field := self.dataset.image_field) is None:
            return 0
        return sum(
            check_images(bar(rows, f"check {self.name}", "image"), field, f"{self.name} {split}")
            for split, rows in self.rows.items()
        )

    def encoded(self, reader: Reader, cache: Cache = OFF) -> dict[str, Any]:
        """The examples of train and validation, in order; images and those of a tokenizer without a hash are not kept.

        Args:
            reader: the model's.
            cache: what other runs have encoded.
        """

        def of(split: str) -> Any:
            def compute() -> Any:
                return reader.examples.joined([reader.examples.of(rows) for rows in self._encoded(split, reader)])

            if reader.key is None:
                return compute()
            key = (self._key(self.content.get("train"), split), reader.key)
            title = f"{split} as {reader.kind} tokens, at most {reader.limit}"
            return self._once(key, title, compute, Examples, cache)

        return {split: of(split) for split in ("train", "validation")}

    def _encoded(self, split: str, reader: Reader) -> Iterator[list[Any]]:
        def chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
            starts = range(0, len(values), AT_A_TIME)
            return (values[start : start + AT_A_TIME] for start in bar(starts, f"encode {self.name}", "x 1000 rows"))

        if reader.kind in CLASSIFIERS:
            yield from (self._classified(rows, reader) for rows in chunks(self.rows[split]))
        else:
            pairs = self._pairs(split, reader)
            yield from (reader.continued(some, self.name) for some in chunks(pairs))

    def _classified(self, rows: Sequence[dict[str, Any]], reader: Reader) -> list[Any]:
        assert self.dataset.classification is not None, "checked by Task.check"
        return reader.classified(rows, self.dataset.classification)

    def targets(self, reader: Reader, num_rows: int, cache: Cache = OFF) -> Targets | None:
        """The first rows of the scored split with their targets; None where an answer is code that is run.

        Args:
            reader: the model's, whose limit are the tokens that the model takes.
            num_rows: rows at most.
            cache: what other runs have encoded.
        """
        if self.dataset.runs_code:
            return None

        def compute() -> Targets:
            from bench.tasks.definition import prompt_and_target

            assert self.scored is not None, "a dataset that is not scored has no scored split"
            kept = self.known(cache).scored
            rows = {self.scored: self.rows[self.scored] if kept is None else kept}
            task = self._task(rows, self.scored, chat=reader.chat)

            def encoded(doc: dict[str, Any]) -> list[Any]:
                if reader.kind in CLASSIFIERS:
                    return self._classified([doc], reader)
                return reader.continued([prompt_and_target(task, doc)], self.name)

            return Targets.of(list(itertools.islice(task.docs(), num_rows)), encoded, reader)

        if reader.key is None:
            return compute()
        title = f"first {num_rows} targets of {self.scored} as {reader.kind} tokens, at most {reader.limit}"
        return self._once((self.key, "targets", reader.key, num_rows), title, compute, Targets, cache)

    def _pairs(self, split: str, reader: Reader | None = None) -> list[Pair]:
        """Prompts and answers, as a reader is given them; without one they are plain text."""
        from bench.tasks.definition import prompt_and_target

        key = split, "" if reader is None else str(reader.chat_key)
        if key not in self._texts:
            task = self._task({split: self.rows[split]}, split, chat=None if reader is None else reader.chat)
            docs = bar(task.docs(), f"render {self.name}", "row", len(self.rows[split]))
            self._texts[key] = [prompt_and_target(task, doc) for doc in docs]
        return self._texts[key]

    def contaminated_by(self, others: Sequence[Source], score_split: str, cache: Cache = OFF) -> int:
        """Number of items of a split that occur, normalised, in the training rows of other sources."""

        def compute() -> Count:
            train = [text for other in others for text in other._plain("train", answered=True)]
            return Count(len(contamination.contaminated(self._plain(score_split, answered=False), train)))

        key = ("contamination", score_split, self.key, *(other.key for other in others))
        title = f"items of {score_split} that occur in {', '.join(other.name for other in others)}"
        return self._once(key, title, compute, Count, cache).items

    def _plain(self, split: str, answered: bool) -> list[str]:
        """The text of each row: those to classify, or the prompt, with its answer if `answered`; a hash of an image."""
        if (field := self.dataset.image_field) is not None:
            return [hashlib.sha256(row[field].encode()).hexdigest() for row in self.rows[split]]
        if self.dataset.classification is not None:
            return [" ".join(row[name] for name in self.dataset.classification.texts) for row in self.rows[split]]
        return [prompt + target if answered else prompt or target for prompt, target in self._pairs(split)]


# What this process has read: the cells of a sweep share rows and examples, which cannot change.
_sources: dict[str, Source] = {}
MOST_SOURCES = 32  # the oldest make room


def of_dataset(
    name: str,
    dataset: Dataset,
    template: str,
    data_root: Path | None,
    uses: frozenset[str],
    carving: Carving,
    scored: str | None = None,
) -> Source:
    """A dataset under one template; memoised while its files are the same.

    Args:
        name: the dataset's.
        dataset: its configuration.
        template: one of its definitions.
        data_root: a local folder to read instead of the Hub.
        uses: the splits to read, among train, validation and test.
        carving: how train is divided.
        scored: the split to score; None if only other datasets are scored.

    Raises:
        ValueError: as `Dataset.content`.
    """
    published = {"train", *uses} if uses & {"train", "validation"} else uses
    content = dataset.content(data_root, published - {"validation"} if dataset.splits.test else {"train"})
    source = Source(name, dataset, dataset.definitions[template], data_root, uses, carving, scored, content)
    found = _sources.setdefault(f"{source.key} {data_root}", source)
    while len(_sources) > MOST_SOURCES:
        del _sources[next(iter(_sources))]
    return found


@functools.cache
def _made_by() -> list[str | None]:
    """What reads, renders and encodes: a hash of this room's files, definitions included, and the libraries' versions.

    An entry that others have made is not read.
    """
    files = sorted(path for path in Path(__file__).parent.rglob("*") if path.suffix in (".py", ".yaml"))
    code = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return [code, *(version(name) for name in LIBRARIES)]
