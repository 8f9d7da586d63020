"""Settings and results of scoring."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from typing import Any, Literal

from pydantic import ConfigDict, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from bench.runs.record_parts import Score
from bench.runs.renamed import HASHED_SPLITS
from bench.tasks import ScoreSplit


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Scoring:
    """The `score` key of the configuration.

    Attributes:
        split: test, or validation, which is carved out of train, for choosing a learning rate.
        limit: score the first so many items of each task only; None for all.
        batch_size: prompts at a time, at most; fixed, because it can move scores. Halved, with a warning, where memory
            does not suffice; the record has the size that was used.
        backend: hf (transformers), or vllm for causal models, which is given the merged weights.
        merged_samples: items of each task that are scored once more after the adapters were merged; 0: none.
        confirm_run_unsafe_code: tasks may run code that the model wrote.
    """

    split: ScoreSplit
    limit: PositiveInt | None
    batch_size: PositiveInt
    backend: Literal["hf", "vllm"]
    merged_samples: NonNegativeInt
    confirm_run_unsafe_code: bool

    def identity(self) -> dict[str, Any]:
        """The settings that can change a score."""
        named = {name: getattr(self, name) for name in ("limit", "batch_size", "backend")}
        return {"split": HASHED_SPLITS[self.split]} | named


@plain_dataclass(frozen=True)
class Outcome:
    """One item under one filter: hash of the document, target, response and metrics.

    Attributes:
        response: the generated text, or the log-likelihoods of all choices.
        choice: index of the likeliest choice; None where the model generates or only reads.
    """

    task: str
    filter: str
    doc_id: int
    doc_hash: str
    target: str
    response: str
    metrics: dict[str, Any]
    choice: int | None


@plain_dataclass(frozen=True)
class Scored:
    """The result of scoring.

    Attributes:
        batch_size: prompts at a time that fitted into memory.
        truncated: items of each task that were longer than the model's limit, so that a part was cut off.
    """

    scores: list[Score]
    outcomes: list[Outcome]
    batch_size: int
    truncated: dict[str, int]
