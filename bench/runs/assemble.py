"""What the stages of one run deliver, put together into its record."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from bench.process.hashes import tokenizer_sha256
from bench.process.provenance import environment
from bench.runs import record_parts as parts
from bench.runs.record import COMPLETED, FAILED, INTERRUPTED, Record, Status

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
    """The record of a run whose stages have all ended."""
    record = _begun(cfg, COMPLETED)
    start, training, task = result.initialization, result.training, result.task
    record.model = parts.ModelFacts(
        name=cfg.model.name,
        kind=result.loaded.kind,
        revision=result.loaded.revision,
        tokenizer_sha256=tokenizer_sha256(result.loaded.tokenizer),
        num_parameters=start.num_parameters,
    )
    record.data = parts.DataFacts(
        name=cfg.task.name,
        sha256=task.sha256,
        num_train=len(task.train),
        num_dropped=task.num_dropped,
        num_truncated=task.num_truncated,
        contaminated=task.contaminated,
        incomplete=task.incomplete,
    )
    record.phases = {name: parts.PhaseCost(**asdict(phase)) for name, phase in result.phases.by_name.items()}
    record.initialization = parts.InitializationFacts(
        num_trainable=start.num_trainable,
        num_head=start.num_head,
        logit_change=start.logit_change,
        calibration=_calibration(start),
        calibration_ids=start.calibration_ids,
        layers=start.reports,
    )
    if training is not None:
        record.training = parts.TrainingFacts(
            num_steps=len(training.curve),
            num_tokens=training.num_tokens,
            seconds=training.seconds,
            loss=training.curve[-1]["loss"],
            eval_loss=training.eval_loss,
        )
    record.scores = result.scored.scores
    record.scoring = parts.ScoringFacts(
        backend=cfg.score.backend,
        batch_size=result.scored.batch_size,
        truncated=result.scored.truncated,
        merged=result.merged,
    )
    return record


def _calibration(start: Initialization) -> parts.CalibrationFacts | None:
    found = start.calibration
    if found is None:
        return None
    return parts.CalibrationFacts(
        read=start.calibration_read,
        loss=found.loss,
        num_samples=found.num_samples,
        largest_error=found.largest_error,
        exact_layers=found.exact_layers,
        total_seconds=found.cost.total_seconds,
        **asdict(found.cost),
    )


def failed(cfg: Run, error: Exception, trace: str) -> Record:
    """The record of a run that an error stopped."""
    record = _begun(cfg, FAILED)
    step = getattr(error, "step", None)
    record.error = parts.ErrorFacts(type=type(error).__name__, message=str(error), step=step, traceback=trace)
    return record


def interrupted(cfg: Run, signal_name: str) -> Record:
    """The record that a run stopped by a signal leaves beside the checkpoint from which it is resumed."""
    record = _begun(cfg, INTERRUPTED)
    record.error = parts.ErrorFacts(type=signal_name, message="stopped by a signal; the same command resumes it")
    return record


def _begun(cfg: Run, status: Status) -> Record:
    return Record(
        run_id=cfg.run_id,
        status=status,
        label=cfg.method.label,
        config=parts.Config.model_validate(cfg.to_dict()),
        identity=cfg.identity,
        environment=parts.Environment.model_validate(environment()),
    )
