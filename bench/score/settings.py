"""Settings and results of scoring."""

from __future__ import annotations

from dataclasses import asdict, fields
from dataclasses import dataclass as plain_dataclass
from typing import Any, Literal

from pydantic import ConfigDict, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from bench.runs.record_parts import Score, ScoringFacts
from bench.runs.renamed import hashed_split
from bench.tasks import ScoreSplit

LOSS_SAMPLES = 1000
# Keys that came later, and a value at which they change no number, too: a run at their defaults keeps its id.
_LATER: dict[str, Any] = {"batch_tokens": None, "precision": None, "loss_samples": 0, "only_loss": None}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Scoring:
    """The `score` key of the configuration.

    Attributes:
        split: test, or validation, which is carved out of train, for choosing a learning rate.
        batch_size: fixed, because it can move scores.
        batch_tokens: of likelihoods, where contexts are shared.
        precision: bf16 is autocast.
        backend: vllm is given the merged weights.
        loss_samples: rows of each dataset, at most, whose targets' loss is a score; 0 for no such score; None for as
            many as lm-eval scores, at most LOSS_SAMPLES.
        only_loss: lm-eval is left out, and that loss the only score.

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
    loss_samples: NonNegativeInt | None = None
    only_loss: bool = False

    def __post_init__(self) -> None:
        if self.only_loss and self.loss_samples == 0:
            raise ValueError("only_loss=true with loss_samples=0 scores nothing; ask for rows, such as 1000")

    @property
    def num_loss_rows(self) -> int:
        """Rows of each dataset, at most, whose targets' loss is a score."""
        return min(self.limit or LOSS_SAMPLES, LOSS_SAMPLES) if self.loss_samples is None else self.loss_samples

    def identity(self) -> dict[str, Any]:
        """The settings that can change a score; loss_samples=0 changes none, it leaves one out."""
        named = {name: getattr(self, name) for name in ("limit", "batch_size", "backend")}
        later = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name in _LATER and getattr(self, field.name) not in (field.default, _LATER[field.name])
        }
        return {"split": hashed_split(self.split)} | named | later


@plain_dataclass(frozen=True)
class Outcome:
    """One item under one filter: hash of the document, target, response and metrics.

    Attributes:
        filter: lm-eval's, or "loss" where metrics has the loss of the item's target.
        response: the generated text, or the log-likelihoods of all choices.
        choice: index of the likeliest choice; None where the model generates or only reads.
        cluster: what the items that are not independent of it share, such as a fact; None where all are.
    """

    task: str
    filter: str
    doc_id: int
    doc_hash: str
    target: str
    response: str
    metrics: dict[str, Any]
    choice: int | None
    cluster: str | None = None

    def row(self) -> dict[str, Any]:
        """As outcomes.jsonl.gz has it; without a cluster where there is none."""
        return {name: value for name, value in asdict(self).items() if name != "cluster" or value is not None}


@plain_dataclass(frozen=True)
class Scored:
    """The result of scoring."""

    scores: list[Score]
    outcomes: list[Outcome]
    facts: ScoringFacts
