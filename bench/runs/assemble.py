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
    from bench.score import Scored
    from bench.tasks import PreparedTask
    from bench.train import Training


@dataclass(frozen=True)
class Result:
    """The outputs of the stages; `curvature` and `retention` are None where not measured, `training` without it."""

    loaded: LoadedModel
    task: PreparedTask
    initialization: Initialization
    curvature: parts.CurvatureFacts | None
    training: Training | None
    phases: Phases
    scored: Scored
    retention: parts.RetentionFacts | None = None


def completed(cfg: Run, result: Result) -> Record:
    """The record of a run whose stages have all ended."""
    record = _begun(cfg.with_curvature(result.curvature), COMPLETED)
    record.model = parts.ModelFacts(
        name=cfg.model.name,
        kind=result.loaded.kind,
        revision=result.loaded.revision,
        tokenizer_sha256=tokenizer_sha256(result.loaded.tokenizer),
        num_parameters=result.initialization.num_parameters,
        drawn=list(result.loaded.drawn),
        label_logits=result.loaded.label_logits,
        packs=result.loaded.packs,
        gguf=parts.GgufFacts(**asdict(result.loaded.gguf)) if result.loaded.gguf else None,
    )
    record.data = result.task.facts
    record.phases = {name: parts.PhaseCost(**asdict(phase)) for name, phase in result.phases.by_name.items()}
    record.initialization = result.initialization.facts
    record.curvature = result.curvature
    if result.training is not None:
        record.training = result.training.facts
    record.scores, record.scoring = result.scored.scores, result.scored.facts
    record.retention = result.retention
    return record


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
        label=cfg.label,
        config=parts.Config.model_validate(cfg.to_dict()),
        identity=cfg.identity,
        environment=parts.Environment.model_validate(environment()),
    )
