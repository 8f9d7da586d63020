"""Imports and data that every run needs, had once: processes are forked from the one that has imported this."""

import bench.init.stage
import bench.model.weights
import bench.run
import bench.runs.job
import bench.score.backends
import bench.score.stage
import bench.sweep.guard
import bench.train.loop
import bench.train.probe  # noqa: F401
from bench.study.folders import CONF


def prepare():
    """Generates and encodes the embedded task, which takes longer than a short run on it."""
    import lm_eval.evaluator  # noqa: F401
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    import bench.sweep.guard  # noqa: F401  its resolvers and plugins
    from bench.config import Run

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("config"), resolve=True)
    cfg = Run.from_config(config | {"study": "adhoc"})
    cfg.task.prepare(cfg.model.load(), cfg.seed, cfg.score.split)


prepare()
