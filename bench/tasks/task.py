"""A task of the grid: its data, its lm-eval definitions, and the samples each stage draws from its own stream."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import ConfigDict, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from bench import rng
from bench.tasks.data import HubDataset, Rows, content_id, load_rows, rows_sha256
from bench.tasks.examples import Example, collate, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bench.tasks.definition import InMemoryTask

ScoreSplit = Literal["test", "selection"]


@plain_dataclass(frozen=True)
class PreparedTask:
    """A task made ready for one model and one seed.

    Attributes:
        train: the training examples, in file order; the order of training is drawn in bench.train.
        held_out: examples of the selection split, for the loss at intervals.
        calibration: batches of training examples, for the methods that ask for statistics.
        calibration_ids: which training examples those are.
        calibration_checkpointing: as the task says.
        probe: one batch of selection examples for the alignment measures; its first half gives the gradient
            estimate, its second half an independent one.
        evaluations: lm-eval tasks by name.
        pad_token_id: what fills a batch.
        num_dropped: training examples left out because they exceed the task's max_length.
        sha256: hash of all rows.
    """

    train: list[Example]
    held_out: list[Example]
    calibration: list[dict[str, torch.Tensor]]
    calibration_ids: list[int]
    calibration_checkpointing: bool
    probe: dict[str, torch.Tensor]
    evaluations: dict[str, InMemoryTask]
    pad_token_id: int
    num_dropped: int
    sha256: str


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Task:
    """conf/task/*.yaml.

    Attributes:
        name: what the tables call it.
        definitions: data name -> lm-eval task definition; trained on together, scored one by one.
        hub: where the data is published; None for the embedded tier.
        data_root: a local folder to read instead of the Hub.
        max_length: training examples of more tokens are left out, and counted.
        num_fewshot: solved examples before each prompt in scoring; 0 makes scoring and training prompts equal.
        selection_samples: rows of train set apart, by a fixed seed, for choosing learning rates and held-out loss.
        held_out_samples: of those, how many the held-out loss is computed on.
        calibration_samples: training examples that methods may see before training.
        calibration_batch_size: examples a backward pass; the gradient is the mean over batches.
        calibration_seed: draws those examples; None: the run's seed does.
        calibration_checkpointing: a backward pass computes each block's activations twice instead of keeping them.
        probe_samples: selection examples in each of the two gradient estimates of the alignment measures.
    """

    name: str
    definitions: dict[str, str]
    hub: HubDataset | None
    data_root: Path | None
    max_length: PositiveInt
    num_fewshot: NonNegativeInt
    selection_samples: PositiveInt
    held_out_samples: PositiveInt
    calibration_samples: PositiveInt
    calibration_batch_size: PositiveInt
    calibration_seed: NonNegativeInt | None
    calibration_checkpointing: bool
    probe_samples: PositiveInt

    def identity(self) -> dict[str, Any]:
        """What of this can change a run's numbers: not where the data lies, but what it holds."""
        content = {name: content_id(name, self.hub, self.data_root) for name in self.definitions}
        settings = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "data_root"}
        return settings | {"content": content}

    def prepare(self, tokenizer: PreTrainedTokenizerBase, seed: int, score_split: ScoreSplit) -> PreparedTask:
        """Loads, encodes and draws.

        Args:
            seed: the run's; calibration, unless it has a seed of its own, and probe draw from streams of their own.
            score_split: the split that lm-eval scores.

        Raises:
            ValueError: data cannot be had, or too few training examples are short enough.
        """
        from bench.tasks.definition import load_definition

        train: list[Example] = []
        selection: list[list[Example]] = []
        rows_by_name, evaluations, num_dropped = {}, {}, 0
        for name, definition in self.definitions.items():
            rows = load_rows(name, self.hub, self.data_root, self.selection_samples)
            rows_by_name[name] = rows
            evaluations[name] = load_definition(definition, rows, score_split, self.num_fewshot)
            kept: dict[str, list[Example]] = {}
            for split in ("train", "selection"):
                encoded = _encode_rows(tokenizer, evaluations[name], definition, rows[split])
                kept[split] = [example for example in encoded if len(example.input_ids) <= self.max_length]
            num_dropped += len(rows["train"]) - len(kept["train"])
            train += kept["train"]
            selection.append(kept["selection"])
        if not train:
            raise ValueError(f"no training example of {self.name} has at most task.max_length={self.max_length} tokens")
        # Definitions take turns, so that a short held-out set holds all of them.
        held_out = [example for turn in zip(*selection, strict=False) for example in turn]
        if len(train) < self.calibration_samples:
            raise ValueError(
                f"task.calibration_samples={self.calibration_samples}, but {self.name} has {len(train)} training "
                f"examples of at most task.max_length={self.max_length} tokens; ask for fewer"
            )
        drawn_by = seed if self.calibration_seed is None else self.calibration_seed
        calibration_ids = _draw(len(train), self.calibration_samples, rng.stream(drawn_by, "calibration"))
        probe_ids = _draw(len(held_out), 2 * self.probe_samples, rng.stream(seed, "probe"))
        pad = tokenizer.pad_token_id
        batches = [
            collate([train[i] for i in calibration_ids[start : start + self.calibration_batch_size]], pad)
            for start in range(0, len(calibration_ids), self.calibration_batch_size)
        ]
        return PreparedTask(
            train=train,
            held_out=held_out[: self.held_out_samples],
            calibration=batches,
            calibration_ids=calibration_ids,
            calibration_checkpointing=self.calibration_checkpointing,
            probe=collate([held_out[i] for i in probe_ids], pad),
            evaluations=evaluations,
            pad_token_id=pad,
            num_dropped=num_dropped,
            sha256=rows_sha256(rows_by_name),
        )


# What this process has encoded: the cells of a sweep share tokenizer and rows, and examples cannot change.
_encoded: dict[str, list[Example]] = {}
MOST_ENCODED = 500_000  # examples; the oldest make room


def _encode_rows(tokenizer: PreTrainedTokenizerBase, task: InMemoryTask, definition: str, rows: Rows) -> list[Example]:
    """Every row as an example, in order; made once a process for one tokenizer, definition and rows."""
    from bench.tasks.definition import prompt_and_target

    backend = getattr(tokenizer, "backend_tokenizer", None)
    key = rows_sha256({"tokenizer": backend.to_str(), "definition": definition, "rows": rows}) if backend else None
    if key in _encoded:
        return _encoded[key]
    examples = [encode(tokenizer, *prompt_and_target(task, row)) for row in rows]
    if key is not None:
        _encoded[key] = examples
    while len(_encoded) > 1 and sum(map(len, _encoded.values())) > MOST_ENCODED:
        del _encoded[next(iter(_encoded))]
    return examples


def _draw(population: int, num_samples: int, generator: torch.Generator) -> list[int]:
    """`num_samples` different indices below `population`, or all of them where there are fewer."""
    return torch.randperm(population, generator=generator)[:num_samples].tolist()
