"""One dataset under one template: rows that are read once a process, their examples, and their lm-eval task."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.process.hashes import tokenizer_sha256, values_sha256
from bench.runs.renamed import as_hashed
from bench.tasks import contamination
from bench.tasks.data import Carving, Dataset, Rows
from bench.tasks.examples import Example, classify, encode, encode_seq2seq, encode_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bench.model.load import Kind
    from bench.tasks.definition import InMemoryTask


@dataclass(frozen=True)
class Source:
    """Rows of a dataset under one template.

    Attributes:
        name: the dataset's.
        definition: the template's lm-eval task definition.
        rows: rows by split.
        incomplete: a remark on each split that is shorter than the official one.
        sha256: a hash of the rows.
    """

    name: str
    dataset: Dataset
    definition: str
    rows: dict[str, Rows]
    incomplete: list[str]
    sha256: str
    _encoded: dict[tuple, dict[str, list[Example]]] = field(default_factory=dict)
    _texts: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def evaluation(self, score_split: str, num_fewshot: int) -> InMemoryTask:
        """The lm-eval task over a split.

        Raises:
            ValueError: as `load_definition`.
        """
        from bench.tasks.definition import load_definition

        if self.dataset.runs_code:  # its metric tries itself out when it is imported
            os.environ["HF_ALLOW_CODE_EVAL"] = "1"
        rows = {split: self.rows[split] for split in (score_split, "train") if split == score_split or num_fewshot}
        return load_definition(self.name, self.definition, rows, score_split, num_fewshot, self.dataset.classification)

    def check_answers(self) -> None:
        """Refuses rows whose answer is none of the choices: lm-eval would count them as wrong, and none can be learnt.

        The classes of a classification are among its fields' values, which were checked when the rows were read.

        Raises:
            ValueError: a label is none of the choices; the message has label, choices and row.
        """
        for split in self.rows if self.dataset.classification is None else ():
            self._pairs(split)

    def encoded(self, tokenizer: PreTrainedTokenizerBase, kind: Kind, limit: int) -> dict[str, list[Example]]:
        """The examples of train and validation, in order; memoised by tokenizer, kind and limit."""
        key = (tokenizer_sha256(tokenizer), kind, limit)
        found = self._encoded.get(key)
        if found is None:
            found = {split: self._encode(split, tokenizer, kind, limit) for split in ("train", "validation")}
            if None not in key:  # a tokenizer without a hash
                self._encoded[key] = found
        return found

    def _encode(self, split: str, tokenizer: PreTrainedTokenizerBase, kind: Kind, limit: int) -> list[Example]:
        if kind == "encoder":
            classification = self.dataset.classification
            assert classification is not None, "checked by Task.check"
            return [classify(tokenizer, row, classification, limit) for row in self.rows[split]]
        pairs = self._pairs(split)
        if not any(prompt for prompt, _ in pairs):
            if kind != "causal":
                raise ValueError(f"{self.name} is language modelling, which needs a causal model, not {kind}")
            return [example for _, text in pairs for example in encode_text(tokenizer, text, limit)]
        if kind == "seq2seq":
            return [encode_seq2seq(tokenizer, prompt, target, limit) for prompt, target in pairs]
        return [encode(tokenizer, prompt, target) for prompt, target in pairs]

    def _pairs(self, split: str) -> list[tuple[str, str]]:
        from bench.tasks.definition import prompt_and_target

        if split not in self._texts:
            task = self.evaluation(split, 0)
            self._texts[split] = [prompt_and_target(task, doc) for doc in task.eval_docs]
        return self._texts[split]

    def contaminated_by(self, others: Sequence[Source], score_split: str) -> int:
        """Number of items of a split that occur, normalised, in the training rows of other sources."""
        key = ("contamination", score_split, *(other.sha256 for other in others), self.sha256)
        if key not in _counted:
            train = [text for other in others for text in other._plain("train", answered=True)]
            _counted[key] = len(contamination.contaminated(self._plain(score_split, answered=False), train))
        return _counted[key]

    def _plain(self, split: str, answered: bool) -> list[str]:
        """The text of each row: those to classify, or the prompt, with its answer if `answered`."""
        if self.dataset.classification is not None:
            return [" ".join(row[name] for name in self.dataset.classification.texts) for row in self.rows[split]]
        return [prompt + target if answered else prompt or target for prompt, target in self._pairs(split)]


# What this process has read: the cells of a sweep share rows and examples, which cannot change.
_sources: dict[str, Source] = {}
_counted: dict[tuple, int] = {}
MOST_SOURCES = 32  # the oldest make room


def of_dataset(
    name: str, dataset: Dataset, template: str, data_root: Path | None, uses: frozenset[str], carving: Carving
) -> Source:
    """Reads a dataset under one template; memoised while its files are the same.

    Args:
        name: the dataset's.
        dataset: its configuration.
        template: one of its definitions.
        data_root: a local folder to read instead of the Hub.
        uses: the splits to read, among train, validation and test.
        carving: how train is divided.

    Raises:
        ValueError: as `Dataset.load`.
    """
    published = {"train", *uses} if uses & {"train", "validation"} else uses
    content = dataset.content(data_root, published - {"validation"} if dataset.splits.test else {"train"})
    key = values_sha256([name, asdict(dataset), template, content, sorted(uses), asdict(carving)])
    if key not in _sources:
        loaded = dataset.load(data_root, uses, carving)
        definition = dataset.definitions[template]
        _sources[key] = Source(
            name, dataset, definition, loaded.by_split, loaded.incomplete, values_sha256(as_hashed(loaded.by_split))
        )
        while len(_sources) > MOST_SOURCES:
            del _sources[next(iter(_sources))]
    return _sources[key]
