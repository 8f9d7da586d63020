"""The benchmarks' calls into the suite.

A gradient contender returns Calibrated. What of its wall time went into factorisations and into the cache is told
apart, so that the gradient itself can be held against a plain one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bench.init import calibrate
from bench.init.calibrate import Calibration, CalibrationRequest
from bench.init.calibrate.collect import decompose
from bench.methods.base import Factors, Layer, LearningRates, Rank
from bench.model import adapter
from bench.model.load import LoadedModel
from bench.process.store import Cache
from bench.runs import record
from shape import target_layers

Batches = list[dict[str, Tensor]]

RATES = LearningRates(1e-3, 1e-4, 1e-4)  # LoRA-SB's step needs one; its factors' spans do not depend on it
R = 8  # of the LoRA-GA for which gradients are computed


@dataclass(frozen=True)
class Calibrated:
    """What calibration delivered, and seconds of its wall time by part.

    Attributes:
        parts: forward, backward, gradient, storage, svd; cache, where one is written; none where one is read.
    """

    calibration: Calibration
    parts: dict[str, float]


def exact(model: PreTrainedModel, batches: Batches) -> Calibrated:
    """The exact gradient, decomposed layer by layer, without a cache."""
    return _computed(model, batches, wanted("lora_ga", R))


def sketch(model: PreTrainedModel, batches: Batches) -> Calibrated:
    """A sketch of the gradient, of as many triplets as the rank needs, whatever its error; without a cache."""
    return _computed(model, batches, wanted("lora_ga", R, "method.gradient=sketch", "svd.rank=1", "svd.sketch_bound=1"))


def cached(model: PreTrainedModel, batches: Batches, folder: Path) -> Calibrated:
    """As `exact`, with a cache in the folder: the first call fills it, a second is served."""
    loaded = LoadedModel(model, None, "random weights of seed 0")
    task = SimpleNamespace(calibration=batches, calibration_ids=[], calibration_checkpointing=False)
    cache = Cache(enabled=True, dir=folder, max_gb=20)
    began = time.perf_counter()
    found, read = calibrate.shared(loaded, target_layers(model), task, wanted("lora_ga", R), cache)
    seconds = time.perf_counter() - began
    return Calibrated(
        found, {} if read else found.facts.seconds | {"cache": seconds - sum(found.facts.seconds.values())}
    )


def _computed(model: PreTrainedModel, batches: Batches, what: CalibrationRequest) -> Calibrated:
    found = calibrate.calibrate(model, target_layers(model), batches, what)
    return Calibrated(found, found.facts.seconds)


def spans(factors: dict[str, Factors]) -> dict[str, tuple[Tensor, Tensor]]:
    """The columns of every lora_B and lora_Aᵀ."""
    return {name: (start.lora_B, start.lora_A.T) for name, start in factors.items()}


def factors(method: str, r: int, weights: dict[str, Tensor], gradients: dict[str, Tensor]) -> dict[str, Factors]:
    """A method's factors of every layer from its weight and its gradient, singular triplets included."""
    return {name: _factors(method, _seen(method, r, name, weights[name], gradients)) for name in weights}


def calibrated_factors(calibrated: Calibrated, model: PreTrainedModel, r: int) -> dict[str, Factors]:
    """LoRA-GA's factors of every layer from what a gradient contender delivered."""
    return {
        name: _factors("lora_ga", calibrated.calibration.layer(name, layer.weight.detach(), r, 1.0, RATES))
        for name, layer in target_layers(model).items()
    }


def adapted(model: PreTrainedModel, method: str, r: int, gradients: dict[str, Tensor]) -> dict[str, Factors]:
    """As `factors`, with the adapters added to the model, filled, and the base weights shifted."""
    return _fill(model, method, r, lambda name, weight: _seen(method, r, name, weight, gradients))


def initialised(model: PreTrainedModel, method: str, r: int, batches: Batches) -> None:
    """Calibration and adapters, from the pretrained model to the one that the method starts to train."""
    found = calibrate.calibrate(model, target_layers(model), batches, wanted(method, r))
    _fill(model, method, r, lambda name, weight: found.layer(name, weight, r, 1.0, RATES))


def _fill(model: PreTrainedModel, method: str, r: int, seen: Callable[[str, Tensor], Layer]) -> dict[str, Factors]:
    _, added = adapter.add(model, method_named(method), Rank(f"r{r}", r, 2.0 * r), target_layers(model))
    made = {}
    for layer in added:
        made[layer.name] = _factors(method, seen(layer.name, adapter.float_weight(layer.module)))
        adapter.fill(layer, made[layer.name].to(layer.weight.device))
    return made


def _factors(method: str, layer: Layer) -> Factors:
    return method_named(method).factors(layer, torch.Generator().manual_seed(0))


def _seen(method: str, r: int, name: str, weight: Tensor, gradients: dict[str, Tensor]) -> Layer:
    """One layer with the singular triplets that a method takes of it, as calibration would return them."""
    matrices: dict[str, Callable[[], Tensor]] = {
        "weight": lambda: weight,
        "gradient": lambda: gradients[name],
        "gradient_sign": lambda: torch.sign(gradients[name]),
    }
    what = wanted(method, r, "svd.rank=1")  # as many triplets as the rank needs, as the peers compute
    svds = {of: decompose(matrices[of](), of, name, what) for of in what.svds}
    return Layer("layer", weight, r, 1.0, learning_rates=RATES, svds=svds)


def wanted(method: str, r: int, *overrides: str) -> CalibrationRequest:
    """What a method asks of calibration, with the solver as conf/config.yaml has it."""
    cell = composed(f"method={method}", *overrides)
    return CalibrationRequest.of(cell.method, Rank(f"r{r}", r, 2.0 * r), cell.svd)


def method_named(name: str) -> Any:
    """A method with its defaults."""
    return composed(f"method={name}").method


@functools.cache
def composed(*overrides: str) -> Any:
    """The validated Run of a command line, composed once a process: in a contender's warm-up, not in its timed call."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    import bench.sweep.guard  # noqa: F401  its resolvers and plugins
    from bench.config import Run
    from bench.study.folders import CONF

    with initialize_config_dir(str(CONF), version_base="1.3"):
        values = OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True)
    return Run.from_config(values | {"study": values["study"] or "benchmark"})


@dataclass(frozen=True)
class Cell:
    """A finished run: its phases, the rows of its loss curve, and its wall time."""

    phases: dict[str, dict[str, Any]]
    curve: list[dict[str, Any]]
    seconds: float


def run_cell(results_dir: Path, *overrides: str) -> Cell:
    """Does one run of the spine in this process.

    Raises:
        RuntimeError: the run failed.
    """
    from bench.run import run
    from bench.runs.job import execute

    cfg = replace(composed(*overrides, "track=none", "cache.enabled=false"), results_dir=results_dir)
    began = time.perf_counter()
    with silence():
        execute(cfg, run, "[1/1]")
    seconds = time.perf_counter() - began
    folder = results_dir / cfg.study / cfg.run_id
    written = record.read_record(folder)
    if written.error is not None:
        raise RuntimeError(f"{' '.join(overrides)}: {written.error}")
    return Cell(written.phases, record.read_rows(folder / record.CURVE), seconds)


@dataclass(frozen=True)
class TrainingData:
    """What the spine would train with: the pretrained model, its examples in order, and the Trainer's arguments."""

    model: PreTrainedModel
    examples: list[Any]
    collate: Callable[[list[Any]], dict[str, Tensor]]
    arguments: Any


def training_data(scratch: Path, *overrides: str) -> TrainingData:
    """What a run would train with, before a method has changed the model."""
    from bench.tasks.examples import collate
    from bench.train import order
    from bench.train.loop import arguments

    cfg = composed(*overrides)
    with silence():
        loaded = cfg.model.load()
        task = cfg.task.prepare(loaded, cfg.seed, cfg.score.split)
    settings = cfg.train
    num_draws = settings.max_steps * settings.batch_size * settings.gradient_accumulation_steps
    return TrainingData(
        model=loaded.model,
        examples=[task.train[index] for index in order(len(task.train), num_draws, cfg.seed)],
        collate=lambda examples: collate(examples, task.pad_token_id),
        arguments=arguments(settings, cfg.seed, str(scratch)),
    )


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Lines and bars are still made, and go nowhere."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield
