"""What tests of a start share: a model adapted as a run does it, without a task or a configuration."""

from types import SimpleNamespace

from bench.init.stage import initialize
from bench.methods.base import PLAIN, LearningRates
from bench.methods.svd import EXACT
from bench.model.load import UNKNOWN, LoadedModel
from bench.process.phases import Phases
from bench.process.store import Cache
from bench.systems.none import NO_SYSTEM

NO_CACHE = Cache(enabled=False, dir=None, max_gb=1)


def start(
    model, method, rank, targets, batches, options=PLAIN, rates=(0.1, 0.01, 0.01), svd=EXACT, seed=0, system=NO_SYSTEM
):
    """The Initialization of one model by one method on the given calibration batches."""
    task = SimpleNamespace(
        calibration=batches,
        calibration_ids=list(range(sum(len(batch["input_ids"]) for batch in batches))),
        calibration_checkpointing=False,
    )
    cfg = SimpleNamespace(
        method=method,
        system=system,
        rank=rank,
        adapter=options,
        model=SimpleNamespace(target_modules=targets),
        learning_rates=LearningRates(*rates),
        svd=svd,
        cache=NO_CACHE,
        seed=seed,
    )
    return initialize(cfg, LoadedModel(model, None, UNKNOWN), task, Phases())
