"""Method × model -> adapters in place: calibrates, asks the method for factors, writes them, checks its promises."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bench.init import calibrate
from bench.init.calibrate import Calibration, CalibrationRequest
from bench.methods.base import Factors, Method, scaling_value
from bench.methods.norms import norm
from bench.model import adapter
from bench.model.adapter import AdaptedLayer
from bench.model.gradients import Batch
from bench.model.layers import calls_noted, check_called, check_start, evaluating, left_out, target_layers
from bench.model.limits import check_precision
from bench.model.load import LoadedModel
from bench.model.loss import IGNORED
from bench.process import ranks, rng
from bench.process.phases import Phases
from bench.runs.record_parts import InitializationFacts, LayerReport
from bench.tasks import PreparedTask

if TYPE_CHECKING:
    from bench.config import Run


@dataclass(frozen=True)
class Initialization:
    """The state before the first step.

    Attributes:
        model: the model to train.
        layers: the target layers of `model`.
        factors: the starting factors of each adapter, by layer name; those that a shifted base weight lacks.
        num_parameters: number of parameters of the pretrained model without a head.
        facts: what the record says of the initialisation.
    """

    model: PreTrainedModel
    layers: list[AdaptedLayer]
    factors: dict[str, Factors]
    num_parameters: int
    facts: InitializationFacts

    @property
    def weight_norms(self) -> dict[str, float]:
        """‖W‖ of the pretrained model, by layer."""
        return {report.name: report.weight_norm for report in self.facts.layers}


# A function-preserving start in float32 leaves the logits within rounding; the bound is relative to their size. In
# bfloat16 the shifted base rounds to 8 bits, which moves logits by about 1.4 % of their scale.
LOGIT_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
CHECKED_SAMPLES = 2  # number of calibration samples whose logits are compared


def check(cfg: Run) -> None:
    """Refuses a model whose layers the run's method or PEFT cannot adapt; reads neither weights nor data.

    Raises:
        ValueError: the rank does not fit a layer, the method refuses one, not every target is a layer of its own, or
            the GPU has no bfloat16 to train in.
    """
    if cfg.trains:
        check_precision("train.precision", cfg.train.precision)
    skeleton = cfg.model.skeleton(cfg.task.num_labels, cfg.cache)
    linear = target_layers(skeleton, cfg.model.target_modules)
    check_start(linear, cfg.method, cfg.rank, cfg.learning_rates, cfg.system)
    if cfg.method.has_adapter:
        adapter.check_layers(skeleton, linear)


def initialize(cfg: Run, loaded: LoadedModel, task: PreparedTask, phases: Phases) -> Initialization:
    """Turns the pretrained model, in place, into the one that the run's method starts to train.

    Args:
        cfg: the run: its method, rank, adapter options, target modules, learning rates, svd, cache and seed.
        loaded: the pretrained model; must not be used by itself afterwards.
        task: its calibration batches, and the training examples that they are made of.
        phases: the phases calibrate and initialise are added to it.

    Raises:
        ValueError: the model does not call a target layer, or the method broke its promise.
    """
    model = loaded.model
    linear = target_layers(model, cfg.model.target_modules)
    num_parameters, num_head = adapter.count_parameters(model)
    num_left_out = _left_out(model, cfg.method, num_parameters)
    sample = {k: tensor[:CHECKED_SAMPLES] for batch in task.calibration[:1] for k, tensor in batch.items()}
    with calls_noted(linear) as called:
        before = _logits(model, sample)
    if cfg.method.has_adapter and sample:
        check_called(linear, called)
    request = CalibrationRequest.of(cfg.method, cfg.system.rank(cfg.rank), cfg.svd)
    with phases.measure("calibrate"):
        calibration, read = calibrate.shared(loaded, linear, task, request, cfg.cache)
    with phases.measure("initialise"):
        layer_ranks = _layer_ranks(cfg, linear, calibration)
        trained, layers = adapter.add(model, cfg.method, cfg.rank, linear, cfg.adapter, layer_ranks, cfg.system)
        factors = _factors(layers, cfg, layer_ranks, calibration)
        reports = [_start(layer, cfg.method, factors[layer.name]) for layer in layers]
    return Initialization(
        model=trained,
        layers=layers,
        factors={name: found[0] for name, found in factors.items() if found is not None},
        num_parameters=num_parameters,
        facts=InitializationFacts(
            num_trainable=adapter.count_parameters(trained, trainable=True)[0],
            num_head=num_head,
            num_left_out=num_left_out,
            logit_change=_check_function(trained, sample, before, cfg),
            calibration=calibration.recorded(read) if request != CalibrationRequest() else None,
            calibration_ids=task.calibration_ids if request.data else [],
            layers=reports,
        ),
    )


def _left_out(model: nn.Module, method: Method, num_parameters: int) -> int:
    """Parameters that an adapter cannot reach though full fine-tuning trains them; warns from half a percent on."""
    if not method.has_adapter:
        return 0
    found, what = left_out(model)
    if share := round(100 * found / num_parameters):
        warnings.warn(
            f"{method.label} leaves out {share} % of the parameters, which are in no linear layer ({what}); full "
            "fine-tuning trains them",
            stacklevel=3,
        )
    return found


def _layer_ranks(cfg: Run, linear: dict[str, nn.Linear], calibration: Calibration) -> dict[str, int]:
    """The rank of each layer's adapter, which some methods choose; 0 for every layer of a method without adapters."""
    if not cfg.method.has_adapter:
        return dict.fromkeys(linear, 0)
    rank, rates = cfg.system.rank(cfg.rank), cfg.learning_rates
    r, scaling = rank.r, scaling_value(cfg.method.scaling, rank)
    seen = (calibration.layer(name, adapter.float_weight(module), r, scaling, rates) for name, module in linear.items())
    return cfg.method.ranks(seen) or dict.fromkeys(linear, r)


def _factors(
    layers: list[AdaptedLayer], cfg: Run, layer_ranks: dict[str, int], calibration: Calibration
) -> dict[str, tuple[Factors, Factors] | None]:
    """Of each adapter the factors that its base weight lacks, and those from which it trains: mostly the same."""
    by_name, cpu = {layer.name: layer for layer in layers}, torch.device("cpu")

    def compute(name: str) -> tuple[Factors, Factors] | None:
        r, layer = layer_ranks[name], by_name[name]
        if not r:
            return None
        weight = adapter.float_weight(layer.module)
        seen = calibration.layer(name, weight, r, layer.scaling, cfg.learning_rates)
        drawn = cfg.method.factors(seen, rng.stream(cfg.seed, f"init/{name}"))
        begun = cfg.system.start(seen, drawn, rng.stream(cfg.seed, f"system/start/{name}"))
        return (cfg.system.taken_out(seen) or begun).to(cpu), begun.to(cpu)

    found = ranks.map_over_ranks(list(by_name), compute)
    devices = {name: layer.weight.device for name, layer in by_name.items()}
    return {name: pair and (pair[0].to(devices[name]), pair[1].to(devices[name])) for name, pair in found.items()}


def _start(layer: AdaptedLayer, method: Method, found: tuple[Factors, Factors] | None) -> LayerReport:
    pretrained = adapter.float_weight(layer.module).clone()
    if found is None:
        rank = 0 if method.has_adapter else None
        return LayerReport(name=layer.name, r=rank, weight_norm=norm(pretrained).item(), drift=0.0)
    initial, factors = found
    adapter.fill(layer, initial)
    adapter.write(layer, factors)
    change = layer.effective_weight() - pretrained
    return LayerReport(
        name=layer.name,
        r=len(factors.lora_A),
        weight_norm=norm(pretrained).item(),
        lora_A_norm=factors.lora_A.norm().item(),
        lora_B_norm=factors.lora_B.norm().item(),
        lora_R_norm=None if factors.lora_R is None else factors.lora_R.norm().item(),
        drift=(norm(change) / norm(pretrained)).item(),
    )


@torch.no_grad()
def _logits(model: nn.Module, batch: Batch) -> Tensor | None:
    """Logits of every attended token, of every target token (encoder-decoder) or of every class; None without batch."""
    if not batch:
        return None
    with evaluating(model):
        device = next(model.parameters()).device
        given = {name: tensor.to(device) for name, tensor in batch.items()}
        logits = model(**given).logits.float()
    if logits.dim() == 2:  # a row a text or an image
        return logits
    seq2seq = model.config.is_encoder_decoder  # type: ignore[union-attr]
    return logits[given["labels"] != IGNORED if seq2seq else given["attention_mask"].bool()]


def _check_function(model: nn.Module, batch: Batch, before: Tensor | None, cfg: Run) -> float:
    """The largest absolute change of a logit; refuses one beyond rounding if the method keeps the function."""
    after = _logits(model, batch)
    if before is None or after is None:
        return 0.0
    change, size = (after - before).abs().max().item(), before.abs().max().item()
    if not math.isfinite(size):
        raise ValueError(
            f"the pretrained model's largest logit is {size} on the calibration samples: its weights, or their sums in "
            "model.dtype, are not finite"
        )
    dtype = next(model.parameters()).dtype
    keeps = cfg.method.keeps_function and cfg.system.keeps_function
    if not math.isfinite(change) or (keeps and change > LOGIT_TOLERANCE[dtype] * size):
        raise ValueError(
            f"{cfg.system.title(cfg.method)} changed a logit by {change:.3g} at step 0 (largest logit {size:.3g}), "
            "although it is to keep the model's function"
        )
    return change
