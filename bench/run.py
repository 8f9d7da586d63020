"""Does one run, or with -m a sweep, from configuration to record: `python -m bench.run`.

The spine: one cell of the grid, read in the order in which it happens.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bench.process.environment import quiet_environment
from bench.study.folders import CONF
from bench.sweep import arguments, compose, guard, resolvers

if TYPE_CHECKING:
    from bench.config import Run
    from bench.runs.assemble import Result
    from bench.runs.attempt import Attempt


def run(cfg: Run, attempt: Attempt) -> Result:
    """One cell of the grid: method × rank × task × model × seed.

    Args:
        cfg: the cell.
        attempt: takes the rows and the weights, and knows the checkpoint from which training goes on.
    """
    from bench.init import stage
    from bench.model import weights
    from bench.process import ranks, rng
    from bench.process.phases import Phases
    from bench.runs.assemble import Result
    from bench.runs.job import tell
    from bench.score import before_training, check, check_merged, score
    from bench.train import hessian, train
    from bench.train.probe import AlignmentProbe

    rng.seed_global(cfg.seed)
    phases, training, pretrained, retention = Phases.begin(attempt.enter), None, None, None
    with phases.measure("load"):
        stage.check(cfg)
        # A row that cannot be used is refused before a model is loaded.
        calibrates = bool(cfg.method.requires)
        cfg.task.read(cfg.score.split, cfg.trains, cfg.cache, calibrates)
        loaded = cfg.model.load(cfg.task.num_labels, cfg.seed, cfg.cache)
        loss_rows = cfg.score.num_loss_rows
        task = cfg.task.prepare(loaded, cfg.seed, cfg.score.split, cfg.trains, cfg.cache, loss_rows, calibrates)
        check(loaded, task.evaluations, cfg.score)
        attempt.made_from(loaded, task, cfg.checkpoint)
        if cfg.trains:
            pretrained = before_training(cfg.retention, loaded, cfg.model.source == "embedded", cfg.score, cfg.cache)
    cfg = cfg.with_curvature(attempt.curvature)  # known where an earlier attempt is resumed
    start = stage.initialize(cfg, loaded, task, phases)
    if cfg.measures_curvature and attempt.curvature is None:
        with phases.measure("curvature"):
            found = hessian.measure(start.model, start.layers, task, cfg.measure.curvature_rows, cfg.seed, cfg.sharded)
        attempt.keep(found, phases.by_name["curvature"])
        cfg = cfg.with_curvature(found)
        if cfg.resolved_rate is not None and cfg.method.reads_learning_rates:  # it has started from a rate of zero
            loaded = cfg.model.load(cfg.task.num_labels, cfg.seed, cfg.cache)
            start = stage.initialize(cfg, loaded, task, phases)
    phases.by_name |= attempt.kept_phases
    if cfg.resolved_rate is not None and ranks.rank() == 0:
        tell(cfg, f"train.learning_rate={cfg.rate} is {cfg.learning_rate_source}")
    if cfg.trains:
        norms, ratio = start.weight_norms, cfg.adapter.loraplus_lr_ratio
        probe = AlignmentProbe(cfg.measure, start.layers, start.factors, norms, task.probe, system=cfg.system)
        with phases.measure("train"):
            training = train(start.model, task, cfg.schedule, ratio, cfg.seed, probe, attempt, cfg.system)
        phases.carry("train", training.carried_seconds)
        phases.set_apart("measure", probe.seconds, within="train")
    trained = replace(loaded, model=start.model)
    with phases.measure("score"):
        scored = score(trained, task.evaluations, cfg.score, task.targets)
        if pretrained is not None:
            retention = pretrained.facts(trained, cfg.score)
    weights.save(start.model, start.layers, start.factors, attempt.weights_path)
    scored.facts.merged = check_merged(trained, task.evaluations, cfg.score, scored)
    return Result(loaded, task, start, attempt.curvature, training, phases, scored, retention)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(config: DictConfig) -> str:
    """What Hydra calls for each cell; returns how it ended."""
    from bench.runs.job import execute
    from bench.sweep import workers

    cfg = resolvers.validated(config)
    resolvers.check_folder(cfg)
    origin = guard.origin(compose.as_given(HydraConfig.get()), config, cfg)
    if cfg.run.isolate:
        return workers.supervise(workers.Cell(cfg, guard.position(), origin))
    return execute(cfg, run, guard.position(), origin)


def main() -> None:
    """Checks the command line, lets Hydra expand it, and exits with 1 if a run failed."""
    quiet_environment()
    if sys.argv[1:] == [arguments.WORKER]:
        from bench.sweep import worker

        return worker.serve(run)
    sys.argv[1:] = arguments.check_arguments(sys.argv[1:])
    status = 0
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # what Hydra refuses comes here, and is one line
    try:
        job()
    except (HydraException, OmegaConfBaseException) as error:
        arguments.refuse(compose.reason(error))
    except SystemExit as stopped:  # by a signal, or by a launcher that lost a process
        status = stopped.code if isinstance(stopped.code, int) else 1
        if status == 2:
            raise
    ended = guard.finish()
    sys.exit(status or ended)


if __name__ == "__main__":
    main()
