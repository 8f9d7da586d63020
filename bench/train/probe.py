"""The probe that applies bench.train.alignment to the model in training, at step 0 and at intervals.

Its batch is independent of the calibration batch. The gradient is taken at the effective weight, layer by layer,
with dropout off; nothing of the run (random streams, parameters' gradients, mode) is changed by it.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ConfigDict, NonNegativeInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from bench.methods.base import Factors
from bench.process import rng
from bench.runs.record import ALL_LAYERS
from bench.tasks.examples import num_label_tokens
from bench.train import alignment

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bench.model.adapter import AdaptedLayer
    from bench.model.gradients import Batch


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Measure:
    """conf/measure/*.yaml: `alignment_steps` is the interval between probes after step 0; 0 switches them off."""

    alignment_steps: NonNegativeInt


@plain_dataclass(frozen=True)
class Row:
    """One measured number; value is None where it is not defined, such as the cosine of a zero matrix."""

    step: int
    layer: str
    measure: str
    value: float | None


@plain_dataclass
class AlignmentProbe:
    """Measures the layers of one run on one batch.

    Attributes:
        layers: the adapted layers.
        initial: the starting factors of each.
        weight_norms: ‖W‖ of the pretrained model, by layer.
        batch: the first half of its examples gives G, the second half G′ for the noise ceiling.
        rows: everything measured so far.
        seconds: wall time of all measurements.
    """

    settings: Measure
    layers: list[AdaptedLayer]
    initial: dict[str, Factors]
    weight_norms: dict[str, float]
    batch: Batch
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        # Full fine-tuning has no factors to subtract: the change of W is taken against a copy.
        self._pretrained = {
            layer.name: layer.weight.detach().float().clone()
            for layer in self.layers
            if "weight" in layer.trains and self.settings.alignment_steps
        }

    def due(self, step: int) -> bool:
        """Whether the model is to be measured after this step."""
        interval = self.settings.alignment_steps
        return bool(interval) and step % interval == 0

    def restore(self, rows: list[dict[str, Any]], seconds: float) -> None:
        """Resumes with the rows and seconds of an earlier attempt."""
        self.rows[:] = [Row(**row) for row in rows]
        self.seconds = seconds

    def measure(self, model: PreTrainedModel, step: int) -> list[Row]:
        """Measures the model after `step` optimiser steps; returns the new rows, none if the run has diverged."""
        from bench.model.gradients import visit_gradients, weight_gradient

        start = time.perf_counter()
        by_name = {layer.name: layer for layer in self.layers}
        rows: list[Row] = []
        sums = dict.fromkeys(("induced.G", "induced²", "G²", "attainable²", "G.other", "other²"), 0.0)
        half = len(self.batch["input_ids"]) // 2
        if not all(p.isfinite().all() for layer in self.layers for p in layer.parameters().values()):
            return []  # the run has diverged; its next loss says so
        # The batch's loss is a mean over all its label tokens; each half's gradient is to be that of its own mean.
        counted = num_label_tokens(self.batch["labels"])
        share, other_share = counted[:half].sum() / counted.sum(), counted[half:].sum() / counted.sum()

        def consume(name: str, inputs: Tensor, output_gradient: Tensor) -> None:
            layer = by_name[name]
            G = weight_gradient(inputs[:half], output_gradient[:half]) / share
            other = weight_gradient(inputs[half:], output_gradient[half:]) / other_share
            factors = layer.factors()
            induced = _induced(layer, factors, G)
            dora = layer.magnitude() is not None  # its projection has no closed form: NaN, which becomes None
            attainable = None if dora else alignment.attainable_gradient(G, factors, layer.trains)
            products = {
                "induced.G": (induced * G).sum().item(),
                "induced²": induced.square().sum().item(),
                "G²": G.square().sum().item(),
                "attainable²": math.nan if attainable is None else attainable.square().sum().item(),
                "G.other": (G * other).sum().item(),
                "other²": other.square().sum().item(),
            }
            for key, value in products.items():
                sums[key] += value
            features = {} if factors is None else _feature_norms(_tokens(inputs, mask), layer, factors)
            for measure, norm in features.items():
                norms[measure].append(norm)
            measured = _gradient_measures(products) | self._weight_measures(layer, factors) | features
            rows.extend(Row(step, name, measure, _finite(value)) for measure, value in measured.items())

        batch = {name: tensor.to(model.device) for name, tensor in self.batch.items()}
        mask, norms = batch.get("attention_mask"), defaultdict[str, list[float]](list)
        with rng.preserved():
            visit_gradients(model, {layer.name: layer.module for layer in self.layers}, batch, consume)
        together = _gradient_measures(sums) | {name: fmean(values) for name, values in norms.items()}
        rows.extend(Row(step, ALL_LAYERS, measure, _finite(value)) for measure, value in together.items())
        self.rows.extend(rows)
        self.seconds += time.perf_counter() - start
        return rows

    def _weight_measures(self, layer: AdaptedLayer, factors: Factors | None) -> dict[str, float | None]:
        """Norms of the factors, and size and stable rank of ΔW against the pretrained weight."""
        if factors is None and not layer.trains:
            return {"drift": 0.0, "stable_rank": None}
        norms = {f"{part}_norm": parameter.detach().norm().item() for part, parameter in layer.parameters().items()}
        if factors is None or layer.magnitude() is not None:  # the change of W has no low rank
            change = layer.effective_weight() - self._weight_before(layer)
            drift = change.norm().item() / self.weight_norms[layer.name]
            return {"drift": drift, "stable_rank": alignment.stable_rank(change), **norms}
        left, right = layer.scaling * factors.lora_B, factors.right()
        if layer.shifted:  # s(B A - B0 A0), as one product with a thin inner side
            start = self.initial[layer.name]
            left = torch.cat([left, -layer.scaling * start.lora_B], dim=1)
            right = torch.cat([right, start.right()])
        values = alignment.low_rank_norms(left, right)
        # Where the change is zero, the factors cancel up to rounding only.
        rounding = torch.finfo(values.dtype).eps * left.norm().item() * right.norm().item()
        size = values.norm().item() if values.norm() > 4 * rounding else 0.0
        rank = (size / values.max().item()) ** 2 if size else None
        return {"drift": size / self.weight_norms[layer.name], "stable_rank": rank, **norms}

    def _weight_before(self, layer: AdaptedLayer) -> Tensor:
        if layer.name in self._pretrained:
            return self._pretrained[layer.name]
        base = layer.weight.detach().float()
        return base + layer.scaling * self.initial[layer.name].product() if layer.shifted else base


def _tokens(inputs: Tensor, mask: Tensor | None) -> Tensor:
    """The layer's inputs, (tokens, in) float32; without padding if the mask has their shape."""
    known = mask is not None and mask.shape == inputs.shape[:-1]
    return inputs[mask.bool()].float() if known else inputs.flatten(0, -2).float()  # type: ignore[union-attr]


def _feature_norms(x: Tensor, layer: AdaptedLayer, factors: Factors) -> dict[str, float]:
    """Means over tokens of ‖x‖, of Z_A = A x (R A x where R is trained) and of Z_B = s B Z_A.

    Hayou et al. 2024 (arXiv:2406.08447, section 3) follow the two norms with width and learning rate.
    """
    Z_A = x @ factors.right().T
    Z_B = layer.scaling * Z_A @ factors.lora_B.T
    return {f"{name}_norm": Z.norm(dim=-1).mean().item() for name, Z in (("X", x), ("Z_A", Z_A), ("Z_B", Z_B))}


def _induced(layer: AdaptedLayer, factors: Factors | None, G: Tensor) -> Tensor:
    magnitude = layer.magnitude()
    if factors is None or magnitude is None:
        return alignment.induced_gradient(G, factors, layer.scaling, layer.trains, layer.lr_ratio)
    return alignment.induced_dora_gradient(
        G, factors, layer.scaling, layer.trains, layer.lr_ratio, layer.direction(), magnitude
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _gradient_measures(products: dict[str, float]) -> dict[str, float | None]:
    """The alignment measures of the literature, from inner products of one layer or summed over all layers.

    cosine: of the induced gradient g̃ with G. attainable_cosine: of the projection g̃*, the best that the
    parametrisation allows. efficiency: the ratio of the two. captured_energy: ‖g̃*‖²/‖G‖². noise_ceiling: cos(G, G′)
    of two independent estimates.
    """

    def ratio(numerator: float, *squares: float) -> float | None:
        size = math.sqrt(math.prod(squares))
        return numerator / size if size > 0 else None

    cosine = ratio(products["induced.G"], products["induced²"], products["G²"])
    energy = ratio(products["attainable²"], products["G²"], products["G²"])
    attainable = None if energy is None else math.sqrt(energy)
    return {
        "cosine": cosine,
        "attainable_cosine": attainable,
        "efficiency": cosine / attainable if cosine is not None and attainable else None,
        "captured_energy": energy,
        "noise_ceiling": ratio(products["G.other"], products["G²"], products["other²"]),
        "gradient_norm": math.sqrt(products["G²"]),
    }
