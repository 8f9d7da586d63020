"""Method × model -> adapters in place: calibrates, asks the method for factors, writes them, checks its promises."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from bench import adapter
from bench.adapter import AdaptedLayer
from bench.calibrate import Batch, Calibration, calibrate
from bench.methods.base import AdapterMethod, Factors, Layer, LearningRates, Method, Rank
from bench.model import evaluating
from bench.phases import Phases
from bench.tasks import PreparedTask


@dataclass(frozen=True)
class LayerReport:
    """What initialisation did to one layer: Frobenius norms, and the drift ‖ΔW₀‖/‖W‖ of the effective weight."""

    name: str
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
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    sample = {key: tensor[:CHECKED_SAMPLES] for key, tensor in task.calibration[0].items()}
    before = _logits(model, sample)
    with phases.measure("calibrate"):
        bar = tqdm(task.calibration, desc="calibrate", unit="batch", leave=False, disable=not method.requires)
        statistics = calibrate(model, linear, bar, method.requires)
    with phases.measure("initialise"):
        trained, layers = adapter.add(model, method, rank, linear)
        starts = [_start(layer, method, rank, statistics, learning_rates, generator) for layer in layers]
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


def _start(
    layer: AdaptedLayer,
    method: Method,
    rank: Rank,
    statistics: Calibration,
    learning_rates: LearningRates,
    generator: torch.Generator,
) -> tuple[Factors | None, LayerReport]:
    """Asks the method for one layer's factors, writes them, and reports what that did to the layer."""
    pretrained = layer.weight.detach().float().clone()
    if not isinstance(method, AdapterMethod):
        return None, LayerReport(layer.name, pretrained.norm().item(), None, None, None, 0.0)
    seen = Layer(
        name=layer.name,
        weight=pretrained,
        r=rank.r,
        scaling=layer.scaling,
        gradient=statistics.gradient.get(layer.name),
        input_covariance=statistics.input_covariance.get(layer.name),
        learning_rates=learning_rates,
    )
    factors = method.factors(seen, generator)
    adapter.fill(layer, factors)
    change = layer.weight.detach().float() + layer.scaling * factors.product() - pretrained
    report = LayerReport(
        name=layer.name,
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
