"""The probe that applies bench.train.alignment to the model in training, at step 0 and at intervals.

Its batch is independent of the calibration batch. The gradient is taken at the effective weight, layer by layer,
with dropout off; nothing of the run (random streams, parameters' gradients, mode) is changed by it.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ConfigDict, NonNegativeInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from bench.methods.base import Factors
from bench.methods.norms import norm
from bench.model.loss import num_label_tokens
from bench.process import rng
from bench.runs.record import ALL_LAYERS
from bench.systems.base import System
from bench.systems.none import NO_SYSTEM
from bench.train import alignment

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bench.model.adapter import AdaptedLayer
    from bench.model.gradients import Batch

_FeatureNorms = Mapping[str, list[Tensor]]  # of each measure, one number a token, of every call of a layer
_Finish = Callable[["AdaptedLayer", Tensor | None, Tensor | None, _FeatureNorms, Tensor | None], None]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Measure:
    """conf/measure/*.yaml.

    Attributes:
        alignment_steps: interval between alignment probes, of which steps 0 and max_steps have one each; 0 switches
            them off.
        curvature_rows: training examples of the curvature at step 0; 0 switches it off.
    """

    alignment_steps: NonNegativeInt
    curvature_rows: NonNegativeInt = 0  # records from before it was measured lack it

    def identity(self, chooses_rate: bool) -> dict[str, int]:
        """The settings that can change a run's numbers; those of the curvature where the learning rate follows it."""
        rows = {"curvature_rows": self.curvature_rows} if chooses_rate else {}
        return {"alignment_steps": self.alignment_steps} | rows


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
        system: maps the factors' gradients before they move W.
    """

    settings: Measure
    layers: list[AdaptedLayer]
    initial: dict[str, Factors]
    weight_norms: dict[str, float]
    batch: Batch
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    system: System = NO_SYSTEM

    def __post_init__(self) -> None:
        # Full fine-tuning has no factors to subtract: the change of W is taken against a copy.
        self._pretrained = {
            layer.name: layer.weight.detach().float().clone()
            for layer in self.layers
            if "weight" in layer.trains and self.settings.alignment_steps
        }

    def due(self, step: int, last: bool = False) -> bool:
        """Whether the model is to be measured after this step: at intervals, and after the last one."""
        interval = self.settings.alignment_steps
        return bool(interval) and (last or step % interval == 0)

    def restore(self, rows: list[dict[str, Any]], seconds: float) -> None:
        """Resumes with the rows and seconds of an earlier attempt."""
        self.rows[:] = [Row(**row) for row in rows]
        self.seconds = seconds

    def measure(self, model: PreTrainedModel, step: int) -> list[Row]:
        """Measures the model after `step` optimiser steps; returns the new rows, none if the run has diverged."""
        start = time.perf_counter()
        if not all(p.isfinite().all() for layer in self.layers for p in layer.parameters().values()):
            return []  # the run has diverged; its next loss says so
        rows: list[Row] = []
        sums = dict.fromkeys(("induced.G", "induced²", "G²", "attainable²", "G.other", "other²"), 0.0)
        norms = defaultdict[str, list[float]](list)

        def finish(
            layer: AdaptedLayer, G: Tensor | None, other: Tensor | None, features: _FeatureNorms, mean: Tensor | None
        ) -> None:
            factors = layer.factors()
            measured: dict[str, float | None] = dict.fromkeys(_gradient_measures(sums))
            if G is not None and other is not None:
                products = _products(layer, factors, G, other, self.system, mean)
                for key, value in products.items():
                    sums[key] += value
                measured = _gradient_measures(products)
            means = {measure: torch.cat(of_calls).mean().item() for measure, of_calls in features.items()}
            for measure, value in means.items():
                norms[measure].append(value)
            measured |= self._weight_measures(layer, factors) | means
            rows.extend(Row(step, layer.name, measure, _finite(value)) for measure, value in measured.items())

        batch = {name: tensor.to(model.device) for name, tensor in self.batch.items()}
        with rng.preserved():
            finite = _Halves(self.layers, batch, model, finish).visit()
        if not finite:
            return []
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
            drift = norm(change).item() / self.weight_norms[layer.name]
            return {"drift": drift, "stable_rank": alignment.stable_rank(change), **norms}
        left, right = layer.scaling * factors.lora_B, factors.right()
        if layer.shifted:  # s(B A - B0 A0), as one product with a thin inner side
            start = self.initial[layer.name]
            left = torch.cat([left, -layer.scaling * start.lora_B], dim=1)
            right = torch.cat([right, start.right()])
        values = alignment.low_rank_norms(left, right)
        # Where the change is zero, the factors cancel up to rounding only.
        rounding = torch.finfo(values.dtype).eps * left.norm().item() * right.norm().item()
        size = values.norm().item()
        size = size if size > 4 * rounding else 0.0
        rank = (size / values.max().item()) ** 2 if size else None
        return {"drift": size / self.weight_norms[layer.name], "stable_rank": rank, **norms}

    def _weight_before(self, layer: AdaptedLayer) -> Tensor:
        if layer.name in self._pretrained:
            return self._pretrained[layer.name]
        base = layer.weight.detach().float()
        return base + layer.scaling * self.initial[layer.name].product() if layer.shifted else base


class _Halves:
    """The gradients of a batch's two halves, each of the mean loss of its own label tokens, layer by layer.

    A half goes through the model in pieces of rows of about one length, over which a layer's gradient is summed; in the
    last pass of all a layer is finished as soon as it is complete. A layer that the model does not call has no
    gradients, one that a half does not call a gradient of zeros from it. Feature norms are those of tokens: a layer
    whose rows are others (relative positions, an expert's tokens) has none.
    """

    def __init__(self, layers: list[AdaptedLayer], batch: Batch, model: PreTrainedModel, finish: _Finish) -> None:
        """`finish(layer, G, G′, feature norms, mean input of the first half)` is called once a layer."""
        from bench.model.pieces import Cutter, cut
        from bench.model.sums import PLACES, choose_place

        self._layers = {layer.name: layer for layer in layers}
        self._model, self._finish = model, finish
        rows, cutter = range(len(batch["labels"])), Cutter(model)
        halves = {"first": rows[: len(rows) // 2], "second": rows[len(rows) // 2 :]}
        self._passes = [(half, piece) for half, part in halves.items() for piece in cutter.pieces(cut(batch, part))]
        self._totals = {half: num_label_tokens(batch["labels"][list(part)]).sum() for half, part in halves.items()}
        weights = [layer.weight for layer in layers]
        stored, held = (sum(size * w.numel() for w in weights) for size in (2 * 4, weights[0].element_size()))
        self._sums = PLACES[choose_place(stored, held, model.device)]()
        self._half, self._piece = self._passes[0]
        self._open: dict[str, Tensor] = {}  # gradients of layers whose calls go on
        self._features: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
        self._apart: set[str] = set()
        self._inputs: dict[str, tuple[Tensor, int]] = {}  # sum over the tokens of the first half, and their number

    def visit(self) -> bool:
        """Visits all layers; returns False, and has finished none, if a loss is not finite."""
        from bench.model.gradients import visit_gradients

        modules = {name: layer.module for name, layer in self._layers.items()}
        for number, (half, piece) in enumerate(self._passes, 1):
            self._half, self._piece = half, piece
            share = num_label_tokens(piece["labels"]).sum() / self._totals[half]
            finish = self._complete if number == len(self._passes) else self._store
            seen = visit_gradients(self._model, modules, self._piece, self._consume, weight=share.item(), finish=finish)
            if not math.isfinite(seen.loss):
                return False
        for name in list(self._layers):  # those that the last pass does not call
            self._complete(name)
        return True

    def _consume(self, name: str, inputs: Tensor, output_gradient: Tensor) -> None:
        from bench.model.gradients import weight_gradient

        total = self._open.pop(name) if name in self._open else self._sums.take((self._half, name))
        self._open[name] = weight_gradient(inputs, output_gradient, total)
        self._add_features(name, inputs)
        if self._half == "first":
            tokens = inputs.reshape(-1, inputs.shape[-1])
            total_input, count = self._inputs.get(name, (0, 0))
            self._inputs[name] = total_input + tokens.float().sum(dim=0), count + len(tokens)

    def _add_features(self, name: str, inputs: Tensor) -> None:
        from bench.model.gradients import rows_mask

        layer = self._layers[name]
        factors = layer.factors()
        if factors is None:
            return
        mask = rows_mask(self._model, name, inputs.shape[:-1], self._piece)
        if mask is None:
            self._apart.add(name)
            return
        tokens = inputs.reshape(*mask.shape, -1)[mask].float()
        for measure, value in _feature_norms(tokens, layer, factors).items():
            self._features[name][measure].append(value)

    def _store(self, name: str) -> None:
        self._sums.put((self._half, name), self._open.pop(name))

    def _complete(self, name: str) -> None:
        G = self._sums.take(("first", name))
        other = self._open.pop(name) if name in self._open else self._sums.take(("second", name))
        if G is None and other is not None:
            G = torch.zeros_like(other)
        elif G is not None and other is None:
            other = torch.zeros_like(G)
        features = self._features.pop(name, {})
        total_input, count = self._inputs.pop(name, (None, 0))
        mean_input = None if total_input is None else total_input / count
        self._finish(self._layers.pop(name), G, other, {} if name in self._apart else features, mean_input)


def _feature_norms(x: Tensor, layer: AdaptedLayer, factors: Factors) -> dict[str, Tensor]:
    """Of each token ‖x‖, the norm of Z_A = A x (R A x where R is trained) and that of Z_B = s B Z_A.

    Hayou et al. 2024 (arXiv:2406.08447, section 3) follow the two norms with width and learning rate.
    """
    Z_A = x @ factors.right().T
    Z_B = layer.scaling * Z_A @ factors.lora_B.T
    return {f"{name}_norm": Z.norm(dim=-1) for name, Z in (("X", x), ("Z_A", Z_A), ("Z_B", Z_B))}


def _products(
    layer: AdaptedLayer, factors: Factors | None, G: Tensor, other: Tensor, system: System, mean_input: Tensor | None
) -> dict[str, float]:
    """The inner products of which the gradient measures are made."""
    induced = _induced(layer, factors, G, system, mean_input)
    dora = layer.magnitude() is not None  # its projection has no closed form: NaN, which becomes None
    attainable = None if dora else alignment.attainable_gradient(G, factors, layer.trains)
    return {
        "induced.G": (induced * G).sum().item(),
        "induced²": induced.square().sum().item(),
        "G²": G.square().sum().item(),
        "attainable²": math.nan if attainable is None else attainable.square().sum().item(),
        "G.other": (G * other).sum().item(),
        "other²": other.square().sum().item(),
    }


def _induced(
    layer: AdaptedLayer, factors: Factors | None, G: Tensor, system: System, mean_input: Tensor | None
) -> Tensor:
    if (found := system.induced(G, factors, layer.scaling, layer.trains, mean_input)) is not None:
        return found
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
