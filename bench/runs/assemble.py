"""What the stages of one run deliver, put together into its record."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bench.process.hashes import tokenizer_sha256
from bench.process.provenance import environment
from bench.runs.record import COMPLETED, FAILED, INTERRUPTED, Record

if TYPE_CHECKING:
    from bench.config import Run
    from bench.init.stage import Initialization
    from bench.model.load import LoadedModel
    from bench.process.phases import Phases
    from bench.score import Outcome, Scored
    from bench.tasks import PreparedTask
    from bench.train import Training


@dataclass(frozen=True)
class Result:
    """The outputs of the stages; `training` is None where nothing is trained, `merged` where nothing can be merged."""

    loaded: LoadedModel
    task: PreparedTask
    initialization: Initialization
    training: Training | None
    phases: Phases
    scored: Scored
    merged: dict[str, int] | None

    @property
    def outcomes(self) -> list[Outcome]:
        """Every scored item."""
        return self.scored.outcomes


def completed(cfg: Run, result: Result) -> Record:
    """The record of a run that came to its end."""
    record = _begun(cfg, COMPLETED)
    start, training = result.initialization, result.training
    record.model = {
        "name": cfg.model.name,
        "kind": result.loaded.kind,
        "revision": result.loaded.revision,
        "tokenizer_sha256": tokenizer_sha256(result.loaded.tokenizer),
        "num_parameters": start.num_parameters,
    }
    record.data = {
        "name": cfg.task.name,
        "sha256": result.task.sha256,
        "num_train": len(result.task.train),
        "num_dropped": result.task.num_dropped,
        "num_truncated": result.task.num_truncated,
        "contaminated": result.task.contaminated,
        "incomplete": result.task.incomplete,
    }
    record.phases = {name: asdict(phase) for name, phase in result.phases.by_name.items()}
    record.initialization = {
        "num_trainable": start.num_trainable,
        "num_head": start.num_head,
        "logit_change": start.logit_change,
        "calibration": _calibration(start),
        "calibration_ids": start.calibration_ids,
        "layers": [asdict(report) for report in start.reports],
    }
    if training is not None:
        record.training = {
            "num_steps": len(training.curve),
            "num_tokens": training.num_tokens,
            "seconds": training.seconds,
            "loss": training.curve[-1]["loss"],
            "eval_loss": training.eval_loss,
        }
    record.scores = [asdict(score) for score in result.scored.scores]
    record.scoring = {
        "backend": cfg.score.backend,
        "batch_size": result.scored.batch_size,
        "truncated": result.scored.truncated,
        "merged": result.merged,
    }
    return record


def _calibration(start: Initialization) -> dict[str, Any] | None:
    """What calibration found and cost; the cost is that of computing it, also where it was read."""
    found = start.calibration
    if found is None:
        return None
    return {
        "read": start.calibration_read,
        "loss": found.loss,
        "num_samples": found.num_samples,
        "largest_error": found.largest_error,
        "exact_layers": found.exact_layers,
        "total_seconds": found.cost.total_seconds,
        **asdict(found.cost),
    }


def failed(cfg: Run, error: Exception, trace: str) -> Record:
    """The record of a run that stopped with an error."""
    record = _begun(cfg, FAILED)
    step = getattr(error, "step", None)
    record.error = {"type": type(error).__name__, "message": str(error), "step": step, "traceback": trace}
    return record


def interrupted(cfg: Run, signal_name: str) -> Record:
    """What a run leaves that a signal has stopped, beside the checkpoint from which it goes on."""
    record = _begun(cfg, INTERRUPTED)
    record.error = {"type": signal_name, "message": "stopped by a signal; the same command goes on", "step": None}
    return record


def _begun(cfg: Run, status: str) -> Record:
    return Record(
        run_id=cfg.run_id,
        status=status,
        label=cfg.method.label,
        config=cfg.to_dict(),
        identity=cfg.identity,
        environment=environment(),
    )
