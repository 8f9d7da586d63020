"""Settings and results of scoring."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from dataclasses import fields
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
        batch_tokens: of likelihoods, where contexts are shared.
        precision: bf16 is autocast.
        backend: vllm is given the merged weights.

    The other attributes are explained in conf/README.md.
    """

    split: ScoreSplit
    limit: PositiveInt | None
    batch_size: PositiveInt
    backend: Literal["hf", "vllm"]
    merged_samples: NonNegativeInt
    confirm_run_unsafe_code: bool
    batch_tokens: PositiveInt = 2048
    precision: Literal["fp32", "bf16"] = "fp32"

    def identity(self) -> dict[str, Any]:
        """The settings that can change a score."""
        named = {name: getattr(self, name) for name in ("limit", "batch_size", "backend")}
        # Keys that came later: a run at their defaults keeps its id.
        later = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name in ("batch_tokens", "precision") and getattr(self, field.name) != field.default
        }
        return {"split": hashed_split(self.split)} | named | later


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
