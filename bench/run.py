"""The spine: one cell of the grid from configuration to record, and the command line `python -m bench.run`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from bench import arguments, sweep
from bench.folders import CONF
from bench.record import quiet_environment

if TYPE_CHECKING:
    from bench.config import Run
    from bench.job import Sink
    from bench.record import RunFolder
    from bench.results import Result


def run(cfg: Run, folder: RunFolder, log: Sink) -> Result:
    """One cell of the grid: method × rank × task × model × seed.

    Args:
        cfg: the cell.
        folder: takes the weights.
        log: takes each row of the curve, and the alignment rows of the same step, as they are made.
    """
    from bench import rng, weights
    from bench.initialize import initialize
    from bench.measure import AlignmentProbe
    from bench.phases import Phases
    from bench.results import Result
    from bench.score import check, check_merged, score
    from bench.train import train

    rng.seed_global(cfg.seed)
    phases, training = Phases.begin(), None
    with phases.measure("load"):
        loaded = cfg.model.load(cfg.task.num_labels, cfg.seed)
        task = cfg.task.prepare(loaded, cfg.seed, cfg.score.split, cfg.trains)
        check(loaded.model, loaded.tokenizer, loaded.kind, task.evaluations, cfg.score)
    start = initialize(
        loaded, cfg.method, cfg.rank, cfg.adapter, cfg.model.target_modules, task, cfg.learning_rates,
        cfg.svd, cfg.cache, cfg.seed, phases,
    )  # fmt: skip
    if cfg.trains:
        probe = AlignmentProbe(cfg.measure, start.layers, start.factors, start.weight_norms, task.probe)
        with phases.measure("train"):
            training = train(start.model, task, cfg.train, cfg.adapter.loraplus_lr_ratio, cfg.seed, probe, log)
        phases.set_apart("measure", probe.seconds, within="train")
    with phases.measure("score"):
        scored = score(start.model, loaded.tokenizer, loaded.kind, task.evaluations, cfg.score)
    weights.save(start.model, start.layers, start.factors, folder.weights_path)
    merged = check_merged(start.model, loaded.tokenizer, loaded.kind, task.evaluations, cfg.score, scored)
    return Result(loaded, task, start, training, phases, scored, merged)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(config: DictConfig) -> None:
    """What Hydra calls for each cell."""
    from bench.job import execute

    cfg = sweep.validated(config)
    sweep.check_folder(cfg)
    execute(cfg, run, sweep.position())


def main() -> None:
    """Checks the command line, lets Hydra expand it, and exits with 1 if a run failed."""
    quiet_environment()
    arguments.check_arguments(sys.argv[1:])
    job()
    sys.exit(sweep.finish())


if __name__ == "__main__":
    main()
