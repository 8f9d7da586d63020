"""Method × model -> adapters in place: calibrates, asks the method for factors, writes them, checks its promises."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bench.init import calibrate
from bench.init.calibrate import Calibration, Wanted
from bench.init.store import Cache
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
from bench.methods.svd import SVDSettings
from bench.model import adapter
from bench.model.adapter import AdaptedLayer
from bench.model.gradients import Batch
from bench.model.load import LoadedModel, evaluating
from bench.process import ranks, rng
from bench.process.phases import Phases
from bench.tasks import PreparedTask
from bench.tasks.examples import IGNORED


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
        num_trainable: trainable parameters, those of a head not counted.
        num_head: parameters of a classification head, which trains in every method alike.
        num_parameters: parameters of the pretrained model, without a head.
        calibration: its loss, cost and errors; None where the method needs none.
        calibration_read: whether it was read from the cache instead of being computed.
        calibration_ids: the training examples that calibration saw; empty without data.
        logit_change: the largest absolute change of a logit on the first calibration samples, pretrained to adapted; 0
            where nothing is trained.
    """

    model: PreTrainedModel
    layers: list[AdaptedLayer]
    factors: dict[str, Factors]
    reports: list[LayerReport]
    num_trainable: int
    num_head: int
    num_parameters: int
    calibration: Calibration | None
    calibration_read: bool
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
    loaded: LoadedModel,
    method: Method,
    rank: Rank,
    options: AdapterOptions,
    target_modules: tuple[str, ...] | None,
    task: PreparedTask,
    learning_rates: LearningRates,
    svd: SVDSettings,
    cache: Cache,
    seed: int,
    phases: Phases,
) -> Initialization:
    """Turns the pretrained model, in place, into the one that `method` starts to train.

    Args:
        loaded: the pretrained model; must not be used by itself afterwards.
        target_modules: names of the layers to adapt, as `adapter.target_layers` takes them.
        task: its calibration batches, and which training examples they are.
        learning_rates: of the coming schedule.
        svd: how matrices are decomposed.
        cache: where other runs may have left the same calibration.
        seed: the run's; each layer draws from a stream of its own.
        phases: gets the phases calibrate and initialise.

    Raises:
        ValueError: the rank does not fit a layer, no layer matches, or the method broke its promise.
    """
    model = loaded.model
    linear = adapter.target_layers(model, target_modules)
    _check_rank(linear, method, rank, _Look(Calibration(), learning_rates))
    num_parameters, num_head = adapter.count_parameters(model)
    sample = {k: tensor[:CHECKED_SAMPLES] for batch in task.calibration[:1] for k, tensor in batch.items()}
    before = _logits(model, sample)
    wanted = Wanted.by(method, rank, svd)
    with phases.measure("calibrate"):
        calibration, read = calibrate.shared(loaded, linear, task, wanted, cache)
    with phases.measure("initialise"):
        look = _Look(calibration, learning_rates)
        trained, layers, layer_ranks = _adapt(model, method, rank, options, linear, look)
        factors = _factors(layers, method, layer_ranks, look, seed)
        reports = [_start(layer, method, factors[layer.name]) for layer in layers]
    return Initialization(
        model=trained,
        layers=layers,
        factors={name: found for name, found in factors.items() if found is not None},
        reports=reports,
        num_trainable=adapter.count_parameters(trained, trainable=True)[0],
        num_head=num_head,
        num_parameters=num_parameters,
        calibration=calibration if wanted != Wanted() else None,
        calibration_read=read,
        calibration_ids=task.calibration_ids if wanted.data else [],
        logit_change=_check_function(trained, sample, before, method),
    )


@dataclass(frozen=True)
class _Look:
    """Makes layers as a method sees them."""

    calibration: Calibration
    learning_rates: LearningRates

    def __call__(self, name: str, module: nn.Module, r: int, scaling: float) -> Layer:
        weight = adapter.float_weight(module)
        seen = self.calibration.of(name, weight.device)
        return Layer(name=name, weight=weight, r=r, scaling=scaling, learning_rates=self.learning_rates, **seen)


def _check_rank(linear: dict[str, nn.Linear], method: Method, rank: Rank, look: _Look) -> None:
    """Refuses a rank that a layer or the method cannot have, before any data is read."""
    if isinstance(method, AdapterMethod):
        adapter.check_rank(linear, rank)
    if isinstance(method, DemandingMethod):
        scaling = scaling_value(method.scaling, rank)
        for name, module in linear.items():
            method.check(look(name, module, rank.r, scaling))


def _adapt(
    model: PreTrainedModel,
    method: Method,
    rank: Rank,
    options: AdapterOptions,
    linear: dict[str, nn.Linear],
    look: _Look,
) -> tuple[PreTrainedModel, list[AdaptedLayer], dict[str, int]]:
    """Adds the adapters; returns the model, its layers and their ranks, which some methods choose."""
    layer_ranks = dict.fromkeys(linear, rank.r)
    if isinstance(method, RankingMethod):
        scaling = scaling_value(method.scaling, rank)
        layer_ranks = method.ranks(look(name, module, rank.r, scaling) for name, module in linear.items())
    trained, layers = adapter.add(model, method, rank, linear, options, layer_ranks)
    return trained, layers, layer_ranks


def _factors(
    layers: list[AdaptedLayer], method: Method, layer_ranks: dict[str, int], look: _Look, seed: int
) -> dict[str, Factors | None]:
    """Asks the method for each layer's factors; None where it has none."""
    by_name = {layer.name: layer for layer in layers}

    def compute(name: str) -> Factors | None:
        if not isinstance(method, AdapterMethod) or not layer_ranks[name]:
            return None
        layer = by_name[name]
        seen = look(name, layer.module, layer_ranks[name], layer.scaling)
        return method.factors(seen, rng.stream(seed, f"init/{name}")).to(torch.device("cpu"))

    found = ranks.map_over_ranks(list(by_name), compute)
    return {name: factors and factors.to(by_name[name].weight.device) for name, factors in found.items()}


def _start(layer: AdaptedLayer, method: Method, factors: Factors | None) -> LayerReport:
    """Writes one layer's factors, and reports what that did to the layer."""
    pretrained = adapter.float_weight(layer.module).clone()
    if factors is None:
        rank = 0 if isinstance(method, AdapterMethod) else None
        return LayerReport(layer.name, rank, pretrained.norm().item(), None, None, None, 0.0)
    adapter.fill(layer, factors)
    change = layer.effective_weight() - pretrained
    return LayerReport(
        name=layer.name,
        r=len(factors.lora_A),
        weight_norm=pretrained.norm().item(),
        lora_A_norm=factors.lora_A.norm().item(),
        lora_B_norm=factors.lora_B.norm().item(),
        lora_R_norm=None if factors.lora_R is None else factors.lora_R.norm().item(),
        drift=(change.norm() / pretrained.norm()).item(),
    )


@torch.no_grad()
def _logits(model: nn.Module, batch: Batch) -> Tensor | None:
    """Of every token of a language model, of every token to generate, or of every class; None without a batch."""
    if not batch:
        return None
    with evaluating(model):
        device = next(model.parameters()).device
        given = {name: tensor.to(device) for name, tensor in batch.items()}
        logits = model(**given).logits.float()
    if logits.dim() == 2:  # a row a text
        return logits
    seq2seq = model.config.is_encoder_decoder  # type: ignore[union-attr]
    return logits[given["labels"] != IGNORED if seq2seq else given["attention_mask"].bool()]


def _check_function(model: nn.Module, batch: Batch, before: Tensor | None, method: Method) -> float:
    """The largest change of a logit; refuses one that a function-preserving method must not make."""
    after = _logits(model, batch)
    if before is None or after is None:
        return 0.0
    change, size = (after - before).abs().max().item(), before.abs().max().item()
    dtype = next(model.parameters()).dtype
    if not math.isfinite(change) or (method.keeps_function and change > LOGIT_TOLERANCE[dtype] * size):
        raise ValueError(
            f"{method.label} changed a logit by {change:.3g} at step 0 (largest logit {size:.3g}), "
            "although it is to keep the model's function"
        )
    return change
