"""Method × model -> adapters in place: calibrates, asks the method for factors, writes them, checks its promises."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from bench import adapter
from bench.adapter import AdaptedLayer
from bench.calibrate import Batch, Calibration, calibrate
from bench.methods.base import (
    AdapterMethod,
    AdapterOptions,
    DemandingMethod,
    Factors,
    Layer,
    LearningRates,
    Method,
    Rank,
    RankingMethod,
    scaling_value,
)
from bench.model import evaluating
from bench.phases import Phases
from bench.tasks import PreparedTask


@dataclass(frozen=True)
class LayerReport:
    """What initialisation did to one layer: Frobenius norms, and the drift ‖ΔW₀‖/‖W‖ of the effective weight.

    r is the layer's rank, 0 where the method left it out, None where there is no adapter at all.
    """

    name: str
    r: int | None
    weight_norm: float
    lora_A_norm: float | None
    lora_B_norm: float | None
    lora_R_norm: float | None
    drift: float


@dataclass(frozen=True)
class Initialization:
    """The state before the first step.

    Attributes:
        model: the model to train.
        layers: its adapted layers.
        factors: what each adapter started from, by layer name.
        reports: norms and drift, a layer each.
        num_trainable: trainable parameters.
        num_parameters: parameters of the pretrained model.
        calibration_loss: the pretrained model's loss on the calibration samples; None without calibration.
        calibration_ids: the training examples that calibration saw; empty without calibration.
        logit_change: the largest absolute change of a logit on the first calibration samples, pretrained to adapted.
    """

    model: PreTrainedModel
    layers: list[AdaptedLayer]
    factors: dict[str, Factors]
    reports: list[LayerReport]
    num_trainable: int
    num_parameters: int
    calibration_loss: float | None
    calibration_ids: list[int]
    logit_change: float

    @property
    def weight_norms(self) -> dict[str, float]:
        """‖W‖ of the pretrained model, by layer."""
        return {report.name: report.weight_norm for report in self.reports}


# A function-preserving start in float32 leaves the logits within rounding; the bound is relative to their size. In
# bfloat16 the shifted base rounds to 8 bits, which moves logits by about 1.4 % of their scale.
LOGIT_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
CHECKED_SAMPLES = 2  # the logits of so many calibration samples are compared


def initialize(
    model: PreTrainedModel,
    method: Method,
    rank: Rank,
    options: AdapterOptions,
    target_modules: tuple[str, ...],
    task: PreparedTask,
    learning_rates: LearningRates,
    generator: torch.Generator,
    phases: Phases,
) -> Initialization:
    """Turns the pretrained model, in place, into the one that `method` starts to train.

    Args:
        model: the pretrained model; must not be used by itself afterwards.
        target_modules: last names of the layers to adapt.
        task: its calibration batches, and which training examples they are.
        learning_rates: of the coming schedule.
        generator: the run's "init" stream; the layers draw from it one after another.
        phases: gets the phases calibrate and initialise.

    Raises:
        ValueError: the rank does not fit a layer, no layer matches, or the method broke its promise.
    """
    linear = adapter.target_layers(model, target_modules)
    if isinstance(method, AdapterMethod):
        adapter.check_rank(linear, rank)
    if isinstance(method, DemandingMethod):
        see, scaling = partial(_see, Calibration(), learning_rates), scaling_value(method.scaling, rank)
        for name, module in linear.items():
            method.check(see(name, module, rank.r, scaling))
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    sample = {key: tensor[:CHECKED_SAMPLES] for key, tensor in task.calibration[0].items()}
    before = _logits(model, sample)
    with phases.measure("calibrate"):
        bar = tqdm(task.calibration, desc="calibrate", unit="batch", leave=False, disable=not method.requires)
        statistics = calibrate(model, linear, bar, method.requires)
    with phases.measure("initialise"):
        see = partial(_see, statistics, learning_rates)
        trained, layers, ranks = _adapt(model, method, rank, options, linear, see)
        starts = [_start(layer, method, ranks[layer.name], see, generator) for layer in layers]
    return Initialization(
        model=trained,
        layers=layers,
        factors={report.name: factors for factors, report in starts if factors is not None},
        reports=[report for _, report in starts],
        num_trainable=sum(parameter.numel() for parameter in trained.parameters() if parameter.requires_grad),
        num_parameters=num_parameters,
        calibration_loss=statistics.loss,
        calibration_ids=task.calibration_ids if method.requires else [],
        logit_change=_check_function(trained, sample, before, method),
    )


def _see(
    statistics: Calibration, learning_rates: LearningRates, name: str, module: nn.Module, r: int, scaling: float
) -> Layer:
    """One layer as a method sees it."""
    return Layer(
        name=name,
        weight=adapter.float_weight(module),
        r=r,
        scaling=scaling,
        gradient=statistics.gradient.get(name),
        input_covariance=statistics.input_covariance.get(name),
        label_covariance=statistics.label_covariance.get(name),
        learning_rates=learning_rates,
    )


def _adapt(
    model: PreTrainedModel,
    method: Method,
    rank: Rank,
    options: AdapterOptions,
    linear: dict[str, nn.Linear],
    see: Callable[..., Layer],
) -> tuple[PreTrainedModel, list[AdaptedLayer], dict[str, int]]:
    """Adds the adapters; returns the model, its layers and their ranks, which some methods choose."""
    ranks = dict.fromkeys(linear, rank.r)
    if isinstance(method, RankingMethod):
        scaling = scaling_value(method.scaling, rank)
        ranks = method.ranks(see(name, module, rank.r, scaling) for name, module in linear.items())
    trained, layers = adapter.add(model, method, rank, linear, options, ranks)
    return trained, layers, ranks


def _start(
    layer: AdaptedLayer, method: Method, r: int, see: Callable[..., Layer], generator: torch.Generator
) -> tuple[Factors | None, LayerReport]:
    """Asks the method for one layer's factors, writes them, and reports what that did to the layer."""
    pretrained = adapter.float_weight(layer.module).clone()
    if not isinstance(method, AdapterMethod) or not r:
        rank = 0 if isinstance(method, AdapterMethod) else None
        return None, LayerReport(layer.name, rank, pretrained.norm().item(), None, None, None, 0.0)
    factors = method.factors(see(layer.name, layer.module, r, layer.scaling), generator).to(pretrained.device)
    adapter.fill(layer, factors)
    change = layer.effective_weight() - pretrained
    report = LayerReport(
        name=layer.name,
        r=r,
        weight_norm=pretrained.norm().item(),
        lora_A_norm=factors.lora_A.norm().item(),
        lora_B_norm=factors.lora_B.norm().item(),
        lora_R_norm=None if factors.lora_R is None else factors.lora_R.norm().item(),
        drift=(change.norm() / pretrained.norm()).item(),
    )
    return factors, report


@torch.no_grad()
def _logits(model: nn.Module, batch: Batch) -> Tensor:
    with evaluating(model):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
    return logits[batch["attention_mask"].bool()]


def _check_function(model: nn.Module, batch: Batch, before: Tensor, method: Method) -> float:
    """The largest change of a logit; refuses one that a function-preserving method must not make."""
    after = _logits(model, batch)
    change, size = (after - before).abs().max().item(), before.abs().max().item()
    dtype = next(model.parameters()).dtype
    if not math.isfinite(change) or (method.keeps_function and change > LOGIT_TOLERANCE[dtype] * size):
        raise ValueError(
            f"{method.label} changed a logit by {change:.3g} at step 0 (largest logit {size:.3g}), "
            "although it is to keep the model's function"
        )
    return change
