"""Settings and results of scoring."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from typing import Any, Literal

from pydantic import ConfigDict, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from bench.runs.record_parts import Score, ScoringFacts
from bench.runs.renamed import hashed_split
from bench.tasks import ScoreSplit


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Scoring:
    """The `score` key of the configuration.

    Attributes:
        split: test, or validation, which is carved out of train, for choosing a learning rate.
        batch_size: fixed, because it can move scores.
        backend: vllm is given the merged weights.

    The other attributes are explained in conf/README.md.
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
        return {"split": hashed_split(self.split)} | named


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
    """The result of scoring."""

    scores: list[Score]
    outcomes: list[Outcome]
    facts: ScoringFacts
