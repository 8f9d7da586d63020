"""A task: its datasets, its lm-eval definitions, and the samples that each stage draws from its own stream."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass as plain_dataclass
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import ConfigDict, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from bench.model.kinds import CLASSIFIERS
from bench.model.limits import max_tokens
from bench.process import rng
from bench.process.hashes import values_sha256
from bench.process.store import Cache
from bench.process.validation import did_you_mean
from bench.runs.record_parts import DataFacts
from bench.runs.renamed import as_hashed
from bench.tasks.chat import Chat
from bench.tasks.data import Carving, Dataset, TooFewRowsError
from bench.tasks.definition_files import users_sha256
from bench.tasks.encoded import Examples, Pictures
from bench.tasks.examples import collate
from bench.tasks.reader import Reader
from bench.tasks.source import OFF, Source, of_dataset
from bench.tasks.targets import Targets

if TYPE_CHECKING:
    from bench.model.load import Kind, LoadedModel
    from bench.tasks.definition import InMemoryTask

ScoreSplit = Literal["test", "validation"]


@plain_dataclass(frozen=True)
class PreparedTask:
    """A task prepared for one model and one seed; without training examples if nothing is trained.

    Attributes:
        train: the training examples, in file order, each made of its tokens when it is asked for; bench.train draws the
            order of training.
        eval_examples: examples of the validation split on which the eval loss is computed.
        calibration: batches of training examples, for the methods that require statistics.
        calibration_ids: indices of those training examples.
        calibration_checkpointing: the task's setting.
        probe: one batch of validation examples for the alignment measures; its first half gives the gradient
            estimate, its second half an independent one.
        evaluations: lm-eval tasks by name.
        targets: the rows of scored datasets whose targets' loss is a score, by name.
        pad_token_id: the token that fills a batch.
        facts: what the record says of the data.
    """

    train: Examples | Pictures
    eval_examples: list[Any]
    calibration: list[dict[str, torch.Tensor]]
    calibration_ids: list[int]
    calibration_checkpointing: bool
    probe: dict[str, torch.Tensor]
    evaluations: dict[str, InMemoryTask]
    targets: dict[str, Targets]
    pad_token_id: int
    facts: DataFacts


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Task:
    """conf/task/*.yaml.

    Attributes:
        name: its name in run ids and tables.
        datasets: its datasets by name.
        train: names of the datasets to train on, together.
        score: names of the datasets to score, each by itself.
        template: which of the datasets' definitions gives the prompt of training and scoring.
        max_length: the model's own limit holds, too.
        calibration_batch_size: the gradient is the mean over batches.

    The other attributes are explained in conf/README.md.
    """

    name: str
    datasets: dict[str, Dataset]
    train: tuple[str, ...]
    score: tuple[str, ...]
    template: str
    train_samples: PositiveInt | None
    train_sampling: Literal["first", "random"]
    data_root: Path | None
    max_length: PositiveInt
    num_fewshot: NonNegativeInt
    validation_samples: PositiveInt
    eval_samples: PositiveInt
    calibration_samples: PositiveInt
    calibration_batch_size: PositiveInt
    calibration_seed: NonNegativeInt | None
    calibration_checkpointing: bool
    probe_samples: PositiveInt
    chat_template: bool = False

    def __post_init__(self) -> None:
        for name in (*self.train, *self.score):
            if name not in self.datasets:
                meant = did_you_mean(name, self.datasets.keys())
                raise ValueError(f"no dataset {name!r}{meant}; this task has {', '.join(self.datasets)}")
            if self.template not in (choices := self.datasets[name].definitions):
                raise ValueError(
                    f"task.template={self.template} is none of {name}, which has {', '.join(choices)}; take one of "
                    "those, or leave the dataset out of task.train or task.score"
                )
        if not self.train:
            raise ValueError(f"task.train is empty; choose from {', '.join(self.datasets)}")

    def pinned(self) -> Task:
        """The task with each dataset that it reads from the Hub at a commit."""
        if self.data_root is not None:
            return self
        used = {name: self.datasets[name].pinned() for name in (*self.train, *self.score)}
        return replace(self, datasets=self.datasets | used)

    def check_there(self, trains: bool) -> None:
        """Asks whether the Hub or its cache has what is read from there; a local folder is looked at elsewhere.

        Raises:
            ValueError: neither has one of the datasets.
        """
        for name in dict.fromkeys((*(self.train if trains else ()), *self.score)) if self.data_root is None else ():
            self.datasets[name].check_there()

    def check(self, kind: Kind) -> None:
        """Refuses a kind of model that this task has no form for.

        Raises:
            ValueError: a classifier, and the task is not one classification or regression; images for a model of texts,
                or texts for one of images; or a chat template is asked for, and the model is not causal.
        """
        if self.chat_template and kind != "causal":
            raise ValueError(f"task.chat_template=true is for causal models, not {kind}; leave it at false")
        used = dict.fromkeys((*self.train, *self.score))
        images = [name for name in used if self.datasets[name].is_of_images]
        if kind == "vision" and len(images) < len(used):
            raise ValueError(
                f"task={self.name} does not fit a vision model, which classifies images: "
                f"{', '.join(name for name in used if name not in images)} has texts; take a language model, or a task "
                "of images such as task=digits"
            )
        if kind != "vision" and images:
            raise ValueError(
                f"task={self.name} does not fit a model of kind {kind}, which reads texts: {', '.join(images)} has "
                "images; take a vision model such as model=tiny_vit"
            )
        if kind not in CLASSIFIERS:
            return
        without = [name for name in used if self.datasets[name].classification is None]
        if without:
            raise ValueError(
                f"task={self.name} does not fit an encoder, which classifies: {', '.join(without)} has no "
                "classification; take a causal or sequence-to-sequence model, or a task of task=glue/..."
            )
        if len(self.train) > 1 or len({self.num_labels} | {self._num_labels(name) for name in self.score}) > 1:
            raise ValueError(
                f"task={self.name} does not fit {_A[kind]}, which has one classification head: it trains on "
                f"{', '.join(self.train)} and is scored on {', '.join(self.score)}; choose one with task.train=[NAME] "
                "task.score=[NAME]"
            )

    @property
    def num_labels(self) -> int | None:
        """Number of outputs of a classification head in this task; None if it is no classification."""
        return self._num_labels(self.train[0])

    def _num_labels(self, name: str) -> int | None:
        classification = self.datasets[name].classification
        return None if classification is None else classification.num_labels

    def _uses(self, trains: bool, score_split: ScoreSplit) -> dict[str, set[str]]:
        uses: dict[str, set[str]] = {}
        for name in self.train if trains else ():
            uses.setdefault(name, set()).update(("train", "validation"))
        for name in self.score:
            uses.setdefault(name, set()).add(score_split)
            if self.num_fewshot:
                uses[name].add("train")
        return uses

    def identity(self, trains: bool, score_split: ScoreSplit) -> dict[str, Any]:
        """The settings that can change a run's numbers, with the content of the data, not its place.

        Args:
            trains: whether anything is trained; if not, settings of training are left out.
            score_split: the split to score.

        Raises:
            ValueError: a file of data.root, or a definition, is missing.
        """
        apart = ("datasets", "data_root", "train") if trains else _OF_TRAINING
        if not self.chat_template:  # a run of plain prompts keeps the id that it had before there was a choice
            apart = (*apart, "chat_template")
        settings = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in apart}
        content = {}
        for name, uses in self._uses(trains, score_split).items():
            dataset = self.datasets[name]
            definition = {"definition": dataset.definitions[self.template]}
            if (sha256 := users_sha256(dataset.definitions[self.template])) is not None:
                definition |= {"definition_sha256": sha256}
            content[name] = definition | {"content": as_hashed(dataset.content(self.data_root, uses))}
        return as_hashed(settings) | ({"train": self.train} if trains else {}) | {"datasets": content}

    def read(
        self, score_split: ScoreSplit, trains: bool, cache: Cache = OFF, calibrates: bool = True
    ) -> dict[str, Source]:
        """The datasets used, by name, whose rows were read and checked, by this run or by an earlier one.

        Args:
            score_split: the split to score.
            trains: whether anything is trained; if not, the training split is not read.
            cache: what other runs have read.
            calibrates: whether the method needs the calibration examples.

        Raises:
            ValueError: data cannot be had, a row cannot be used, or there are too few for all that is asked.
        """
        carving = Carving(self.validation_samples, self.train_samples, self.train_sampling)
        sources = {}
        for name, uses in self._uses(trains, score_split).items():
            scored = score_split if name in self.score else None
            sources[name] = of_dataset(
                name, self.datasets[name], self.template, self.data_root, frozenset(uses), carving, scored
            )
            try:
                sources[name].known(cache)
            except TooFewRowsError as error:
                raise ValueError(self._too_few(error, calibrates)) from None
        return sources

    def _too_few(self, error: TooFewRowsError, calibrates: bool) -> str:
        """All that is asked of a train split which is too short for it, and what would do."""
        if len(self.train) > 1:
            return str(error)
        others = " and as many of the test split" if error.num_carved > 1 else ""
        asked = f"task.validation_samples={self.validation_samples} of the validation split{others}"
        samples = f", task.calibration_samples={self.calibration_samples} to calibrate on" if calibrates else ""
        validation = max(2, error.num_rows // (error.num_carved + 3))
        left = error.num_rows - error.num_carved * validation
        remedy = {"validation": validation, "probe": min(self.probe_samples, validation // 2)}
        remedy |= {"calibration": min(self.calibration_samples, left)} if calibrates else {}
        said = " ".join(f"task.{name}_samples={number}" for name, number in remedy.items())
        return (
            f"{self.name} has {error.num_rows} rows in its train split, of which are asked {asked}{samples}, and of "
            f"the validation split 2 x task.probe_samples={self.probe_samples} for the alignment measures; "
            f"{f'say {said}' if left > 0 else 'give it more rows'}"
        )

    def prepare(
        self,
        loaded: LoadedModel,
        seed: int,
        score_split: ScoreSplit,
        trains: bool = True,
        cache: Cache = OFF,
        loss_samples: int = 0,
        calibrates: bool = True,
    ) -> PreparedTask:
        """Encodes the examples, and draws the calibration and probe batches.

        Args:
            loaded: the model and tokenizer for which examples are encoded.
            seed: the run's; calibration (unless `calibration_seed` is set) and probe draw from separate streams.
            score_split: the split to score.
            trains: whether anything is trained; if not, the training split is not read.
            cache: what other runs have read and encoded.
            loss_samples: rows of each scored dataset, at most, whose targets' loss is a score.
            calibrates: whether the method needs the calibration examples; others are content with fewer.

        Raises:
            ValueError: data cannot be had, does not fit the model, or too few training examples are short enough.
        """
        self.check(loaded.kind)
        chat = Chat(loaded.tokenizer) if self.chat_template else None
        reader = Reader(loaded.tokenizer, loaded.kind, max_tokens(loaded.model.config, loaded.tokenizer), chat)
        sources = self.read(score_split, trains, cache, calibrates)
        known = {name: source.known(cache) for name, source in sources.items()}
        for name, of in known.items():
            for remark in of.incomplete:
                warnings.warn(f"incomplete: {remark}; {self.datasets[name].whence}", stacklevel=2)
        evaluations = {
            name: sources[name].evaluation(score_split, self.num_fewshot, cache, chat) for name in self.score
        }
        nothing = reader.examples.of([])
        train, validation, num_dropped = self._encode(reader, sources, cache) if trains else (nothing, [], {})
        if trains and not len(train):
            raise ValueError(f"no training example of {self.name} has at most task.max_length={self.max_length} tokens")
        ids, probe_ids = self._draw(len(train), len(validation), seed, calibrates) if trains else ([], [])
        if trains:
            self._warn_of_fewer(
                {name: of.num_rows["train"] for name, of in known.items() if name in self.train}, len(validation)
            )
        pad = loaded.pad_token_id
        return PreparedTask(
            train=train,
            eval_examples=validation[: self.eval_samples],
            calibration=[
                collate([train[i] for i in ids[start : start + self.calibration_batch_size]], pad)
                for start in range(0, len(ids), self.calibration_batch_size)
            ],
            calibration_ids=ids,
            calibration_checkpointing=self.calibration_checkpointing,
            probe=collate([validation[i] for i in probe_ids], pad) if trains else {},
            evaluations=evaluations,
            targets=self._targets(reader, sources, loss_samples, cache),
            pad_token_id=pad,
            facts=DataFacts(
                name=self.name,
                sha256=values_sha256({name: of.sha256 for name, of in known.items()}),
                num_train=len(train),
                num_dropped=num_dropped.get("train", 0),
                num_truncated=int(train.truncated.sum()),
                num_validation=len(validation),
                num_validation_dropped=num_dropped.get("validation", 0),
                num_items={name: known[name].num_rows[score_split] for name in self.score},
                contaminated=self._contaminated(sources, score_split, cache) if trains else {},
                incomplete=[remark for of in known.values() for remark in of.incomplete],
                num_converted=sum(of.num_converted for of in known.values()),
            ),
        )

    def _encode(
        self, reader: Reader, sources: dict[str, Source], cache: Cache
    ) -> tuple[Any, list[Any], dict[str, int]]:
        """Training and validation examples, and how many of each split are left out as too long."""
        limit = reader.limit if reader.kind == "vision" else min(self.max_length, reader.limit)
        of_datasets = [sources[name].encoded(replace(reader, limit=limit), cache) for name in self.train]
        kept, num_dropped = {}, {}
        for split in ("train", "validation"):
            encoded = [of[split] for of in of_datasets]
            starts = itertools.accumulate(map(len, encoded), initial=0)
            short = [
                (start + (of.lengths <= limit).nonzero()[:, 0]).tolist()
                for start, of in zip(starts, encoded, strict=False)
            ]
            # Datasets take turns in validation, so that its first examples hold all of them.
            turns = short if split == "train" else itertools.zip_longest(*short)
            indices = [index for turn in turns for index in turn if index is not None]
            whole = reader.examples.joined(encoded)
            kept[split] = whole.picked(torch.tensor(indices, dtype=torch.long))
            num_dropped[split] = len(whole) - len(kept[split])
            num_cut = int(kept[split].truncated.sum())
            for number, what in ((num_dropped[split], "left out"), (num_cut, "cut")):
                if number:
                    warnings.warn(
                        f"{number} of {len(whole)} {'training' if split == 'train' else split} examples of {self.name} "
                        f"have more than {limit} tokens and are {what} (task.max_length={self.max_length})",
                        stacklevel=3,
                    )
        return kept["train"], list(kept["validation"]), num_dropped

    def _targets(self, reader: Reader, sources: dict[str, Source], num_rows: int, cache: Cache) -> dict[str, Targets]:
        found = {name: sources[name].targets(reader, num_rows, cache) for name in (self.score if num_rows else ())}
        return {name: targets for name, targets in found.items() if targets is not None}

    def _draw(self, num_train: int, num_validation: int, seed: int, calibrates: bool) -> tuple[list[int], list[int]]:
        """Indices of the calibration examples (train) and of the probe examples (validation)."""
        wrong = []
        if calibrates and num_train < self.calibration_samples:
            wrong.append(
                f"task.calibration_samples={self.calibration_samples}, but {self.name} has {num_train} "
                f"training examples of at most task.max_length={self.max_length} tokens; ask for fewer"
            )
        if num_validation < 2 * self.probe_samples:
            wrong.append(
                f"task.probe_samples={self.probe_samples} takes twice as many validation examples, but {self.name} has "
                f"{num_validation} of at most task.max_length={self.max_length} tokens; ask for fewer, or raise "
                "task.validation_samples or task.max_length"
            )
        if wrong:
            raise ValueError("; and ".join(wrong))
        drawn_by = seed if self.calibration_seed is None else self.calibration_seed
        calibration = _drawn(num_train, self.calibration_samples, rng.stream(drawn_by, "calibration"))
        return calibration, _drawn(num_validation, 2 * self.probe_samples, rng.stream(seed, "probe"))

    def _warn_of_fewer(self, num_train: dict[str, int], num_validation: int) -> None:
        found = {"validation examples for task.eval_samples": (num_validation, self.eval_samples)}
        for name, there in num_train.items():
            found[f"rows of {name} for task.train_samples"] = (there, self.train_samples or there)
        for what, (there, asked) in found.items():
            if there < asked:
                warnings.warn(f"{self.name} has {there} {what}={asked}, and takes these", stacklevel=3)

    def _contaminated(self, sources: dict[str, Source], score_split: ScoreSplit, cache: Cache) -> dict[str, int]:
        found = {}
        for name in self.score:
            others = tuple(sources[trained] for trained in self.train)
            found[name] = sources[name].contaminated_by(others, score_split, cache)
            if found[name]:
                warnings.warn(
                    f"contamination: {found[name]} items of {name} ({score_split}) occur in the training examples",
                    stacklevel=3,
                )
        return found


_A = {"encoder": "an encoder", "vision": "a vision model"}
_OF_TRAINING = tuple(
    "datasets data_root train train_samples train_sampling max_length eval_samples probe_samples "
    "calibration_samples calibration_batch_size calibration_seed calibration_checkpointing".split()
)


def _drawn(population: int, num_samples: int, generator: torch.Generator) -> list[int]:
    return torch.randperm(population, generator=generator)[:num_samples].tolist()
