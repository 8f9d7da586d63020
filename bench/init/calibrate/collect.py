"""One pass over the calibration samples: accumulates each layer's statistics, decomposes and frees complete ones."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from bench.init.calibrate.result import FROM_GRADIENTS, Calibration, CalibrationRequest
from bench.init.calibrate.sketch import GradientSketch
from bench.methods.base import Spectral, Statistic
from bench.methods.svd import SVD, leading_svd
from bench.model.gradients import Batch, rows_mask, token_masks, visit_gradients, visit_inputs, weight_gradient
from bench.model.images import is_of_images
from bench.model.loss import IGNORED, num_label_tokens
from bench.model.pieces import Cutter, num_samples
from bench.model.sums import PLACES, Place, Sums, choose_place
from bench.process import ranks, rng
from bench.process.phases import now


@dataclass(frozen=True)
class Piece:
    """Part of a batch that goes through the model at once, and its loss's weight in the mean over batches."""

    batch: Batch
    weight: float


def split(batches: Sequence[Batch], cutter: Cutter, most_rows: int | None = None) -> list[Piece]:
    """Divides batches into pieces of samples of about one length; batches weigh equally, pieces by their label tokens.

    A piece without a label token has no loss and is left out.

    Args:
        batches: padded on the right.
        cutter: the model's.
        most_rows: samples of a piece; None: as many as the cutter finds best.
    """
    fewest = math.ceil(ranks.size() / len(batches))  # of each batch, so that every rank has a piece
    pieces = []
    for batch in batches:
        total = num_label_tokens(batch["labels"]).sum()
        for part in cutter.pieces(batch, fewest, most_rows):
            share = (num_label_tokens(part["labels"]).sum() / total).item()
            if share > 0:
                pieces.append(Piece(part, share / len(batches)))
    return pieces


class Collector:
    """Accumulates each layer's statistics over the samples, and decomposes them after the last batch.

    A layer that the model calls several times in a pass counts with all its calls: its gradient is the sum over them,
    as autograd's, and its covariances are of the inputs of every call. Of a layer whose rows are not the tokens of the
    batch (relative positions, an expert's tokens) a covariance counts every row that one sample without padding gives
    it, so that such a model passes sample by sample. A layer that no sample reaches has statistics of zeros, and is
    warned about.

    Attributes:
        at: the layer that the model is computing, for the message of an out-of-memory error.
    """

    def __init__(self, model: PreTrainedModel, layers: Mapping[str, nn.Linear], request: CalibrationRequest) -> None:
        self._model, self._layers, self._request = model, layers, request
        self._result = Calibration()
        self._seconds: dict[str, float] = defaultdict(float)
        self._open: dict[str, dict[str, Tensor]] = defaultdict(dict)  # accumulators of layers whose calls go on
        self._complete: set[str] = set()
        self._reached: set[str] = set()
        self._apart: set[str] = set()  # layers whose rows are not the tokens of a batch of several samples
        self._sketches: dict[str, GradientSketch] = {}
        self._batch: Batch = {}
        self._weight = 1.0  # of the batch's loss in what is differentiated
        self._last = False
        self._sums: Sums = PLACES["memory"]()
        self.at = "the embeddings"

    def run(self, pieces: Sequence[Piece], checkpointing: bool) -> Calibration | None:
        """The statistics over all pieces, of which this rank passes over its shard.

        Returns:
            None if a covariance is asked for of layers that need one sample a pass, and pieces have more.

        Raises:
            ValueError: the loss is not finite.
        """
        own = ranks.shard(pieces)
        layer_by_layer = self._request.gradient and ranks.size() == 1  # a forward pass may call a layer once more
        place = self._choose_place() if len(own) > 1 or not layer_by_layer else None
        self._sums = PLACES[place or "memory"]()
        loss = torch.zeros((), dtype=torch.float64)
        bar = tqdm(own, desc="calibrate", unit="batch", leave=False, disable=ranks.rank() > 0)
        for index, piece in enumerate(bar):
            self._batch = {name: tensor.to(self._model.device) for name, tensor in self._cut(piece.batch).items()}
            self._weight = piece.weight
            self._last = index == len(own) - 1 and layer_by_layer
            loss += piece.weight * self._visit(piece.weight, checkpointing)
        found, facts = self._result, self._result.facts
        facts.loss = ranks.all_reduce_sum(loss).item()
        if not math.isfinite(facts.loss):
            raise ValueError(f"the pretrained model's loss on the calibration samples is {facts.loss}")
        if ranks.all_reduce_sum(torch.tensor(len(self._apart))):
            return None
        self._bring_together()
        self._warn_of_unreached()
        sizes = [num_samples(piece.batch) for piece in pieces]
        facts.num_samples, facts.batch_size, facts.place = sum(sizes), max(sizes), place
        facts.seconds = dict(self._seconds)
        for by_layer in (found.input_covariance, found.output_covariance):
            by_layer.update({name: total / sum(sizes) for name, total in by_layer.items()})
        return found

    def _visit(self, weight: float, checkpointing: bool) -> float:
        before = sum(self._seconds.values())
        given = self._model, self._layers, self._batch, self._consume
        if self._request.gradient:
            seen = visit_gradients(
                *given, weight=weight, checkpointing=checkpointing, finish=self._finish, enter=self._enter
            )
        else:
            seen = visit_inputs(*given, finish=self._finish, enter=self._enter)
        consumed = sum(self._seconds.values()) - before
        self._seconds["forward"] += seen.forward_seconds - (0 if self._request.gradient else consumed)
        self._seconds["backward"] += seen.backward_seconds - (consumed if self._request.gradient else 0)
        return seen.loss

    def _enter(self, name: str) -> None:
        self.at = name

    def _choose_place(self) -> Place:
        layers = self._layers.values()
        gradients = sum(4 * layer.in_features * layer.out_features for layer in layers) if self._exact_gradient else 0
        covariances = self._request.matrices - FROM_GRADIENTS
        squares = sum(4 * _side(kind, layer) ** 2 for kind in covariances for layer in layers)
        weights = sum(layer.weight.numel() * layer.weight.element_size() for layer in layers)
        return choose_place(gradients + squares, weights, self._model.device)

    @property
    def _exact_gradient(self) -> bool:
        return self._request.gradient and not self._request.sketched

    def _consume(self, name: str, inputs: Tensor, output_gradient: Tensor | None = None) -> None:
        self._reached.add(name)
        opened = self._open[name]
        for kind in sorted(self._request.matrices - {"gradient"}):
            tokens = self._tokens(kind, name, inputs.shape[:-1])
            if tokens is None:
                continue
            rows = self._rows(kind, name, inputs, output_gradient).reshape(*tokens.shape, -1)
            share = self._share(kind, tokens, rows)
            total = self._total(kind, name)
            with self._clock("gradient"):
                opened[kind] = share if total is None else total.add_(share)
        if output_gradient is None:
            return
        if self._exact_gradient:
            total = self._total("gradient", name)
            with self._clock("gradient"):
                opened["gradient"] = weight_gradient(inputs, output_gradient, total)
        elif self._request.sketched:
            with self._clock("gradient"):
                self._sketch(name, inputs.flatten(0, -2).float(), output_gradient.flatten(0, -2).float())

    def _rows(self, kind: Statistic, name: str, inputs: Tensor, output_gradient: Tensor | None) -> Tensor:
        """The vectors (..., in or out) that a statistic is of."""
        if kind == "output_fisher":
            assert output_gradient is not None, "a request of it needs a backward pass"
            return output_gradient
        # By its forward alone, as a call would come back here through the hooks.
        return self._layers[name].forward(inputs) if kind == "output_covariance" else inputs

    def _share(self, kind: Statistic, tokens: Tensor, rows: Tensor) -> Tensor:
        """What one batch adds to a statistic other than the gradient; rows (batch, tokens, in or out)."""
        if kind in ("input_covariance", "output_covariance"):
            return _scaled_moments(tokens, rows)
        if kind != "output_fisher":
            return _moments(rows[tokens])
        labels = num_label_tokens(self._batch["labels"])
        # Of each sample's own mean loss: the batch's counts label tokens alike, and is weighted among batches.
        own = labels.sum() / labels.clamp(min=1) / self._weight
        return _squares((rows * own.to(rows)[:, None, None])[tokens])

    def _cut(self, batch: Batch) -> Batch:
        """The batch; one sample alone loses its padding, so that every row that a layer is given is of its tokens."""
        if len(batch["labels"]) > 1 or is_of_images(batch):
            return batch
        source, target = token_masks(self._model, batch)
        labels = source if target is None else target
        return {
            name: tensor[labels if name == "labels" else source][None] if tensor.dim() > 1 else tensor
            for name, tensor in batch.items()
        }

    def _tokens(self, kind: Statistic, name: str, rows: torch.Size) -> Tensor | None:
        """Mask (batch, tokens) of the input vectors that a covariance is computed from; None: it takes single samples.

        Padding is left out; by the label covariance also tokens without a label, if the layer's tokens have labels.
        """
        mask, labels = rows_mask(self._model, name, rows, self._batch), self._batch["labels"]
        if mask is None and len(labels) > 1:
            self._apart.add(name)
        elif mask is None:
            return torch.ones(1, rows.numel(), dtype=torch.bool, device=labels.device)
        elif kind == "label_covariance" and not self._model.config.is_encoder_decoder and labels.dim() == 2:
            return labels != IGNORED
        return mask

    def _sketch(self, name: str, inputs: Tensor, output_gradient: Tensor) -> None:
        if name not in self._sketches:
            k = self._width((output_gradient.shape[1], inputs.shape[1]))
            begun = GradientSketch.begin(inputs, output_gradient, k, rng.stream(0, f"sketch/{name}"))
            if ranks.size() > 1:
                ranks.broadcast_([begun.Omega, begun.Psi])
                begun.restart(inputs, output_gradient)
            self._sketches[name] = begun
        else:
            self._sketches[name].add(inputs, output_gradient)

    def _total(self, kind: str, name: str) -> Tensor | None:
        """The accumulator of a statistic; None before the first batch."""
        if kind in self._open[name]:
            return self._open[name][kind]
        with self._clock("storage"):
            return self._sums.take((kind, name))

    def _finish(self, name: str) -> None:
        """Called after a layer's gradients in this pass, or after one call: delivers or stores its accumulators."""
        opened = self._open.pop(name, {})
        for kind, total in opened.items():
            if self._last:
                self._deliver(kind, name, total)
            else:
                with self._clock("storage"):
                    self._sums.put((kind, name), total)
        if self._last and (opened or name in self._sketches):
            self._complete.add(name)
            if name in self._sketches:
                self._deliver_svds({name: {"gradient": self._sketched(name)}})

    def _deliver(self, kind: str, name: str, total: Tensor) -> None:
        if kind in ("input_covariance", "output_covariance"):
            getattr(self._result, kind)[name] = total.cpu()
        elif kind == "label_covariance":
            self._result.label_covariance[name] = _covariance(total).cpu()
        elif kind in ("token_covariance", "output_fisher"):
            getattr(self._result, kind)[name] = _mean(total).cpu()
        else:
            self._deliver_svds({name: self._decomposed(name, total)})
            if "gradient" in self._request.matrices:
                self._result.gradient[name] = total.cpu()

    def _decomposed(self, name: str, gradient: Tensor) -> dict[Spectral, SVD]:
        found = {}
        with self._clock("svd"):
            for of in sorted(self._request.svds - {"weight"}):
                matrix = gradient if of == "gradient" else gradient.sign()
                found[of] = decompose(matrix, of, name, self._request)
        return found

    def _sketched(self, name: str) -> SVD:
        with self._clock("svd"):
            sketch = self._sketches.pop(name)
            k = self._width((len(sketch.Y), sketch.Z.shape[1]))
            return on_host(sketch.svd(k, min(k, self._request.num_singular)))

    def _deliver_svds(self, svds: Mapping[str, Mapping[Spectral, SVD]]) -> None:
        for name, by_matrix in svds.items():
            for of, svd in by_matrix.items():
                self._result.svds.setdefault(of, {})[name] = svd

    def _width(self, shape: tuple[int, ...]) -> int:
        return self._request.svd.width(shape, self._request.num_singular)

    def _bring_together(self) -> None:
        """All-reduces the accumulators of layers not yet delivered; each is decomposed on one rank and broadcast."""
        left = [name for name in self._layers if name not in self._complete]
        kinds = sorted(self._request.matrices - {"gradient"}) + (["gradient"] if self._exact_gradient else [])
        for kind in kinds:
            for name in left:
                total = ranks.all_reduce_sum(self._stored(kind, name))
                if kind == "gradient" and self._request.svds:
                    self._sums.put((kind, name), total)
                else:
                    self._deliver(kind, name, total)
        for name in left:
            if name in self._sketches:
                ranks.all_reduce_sum(self._sketches[name].Y)
                ranks.all_reduce_sum(self._sketches[name].Z)
        if self._request.svds - {"weight"}:
            self._deliver_svds(ranks.map_over_ranks(left, self._decomposed_total))

    def _warn_of_unreached(self) -> None:
        reached_by = ranks.all_reduce_sum(torch.tensor([name in self._reached for name in self._layers]).int())
        names = [name for name, count in zip(self._layers, reached_by, strict=True) if not count]
        if names:
            warnings.warn(
                f"no calibration sample reaches {len(names)} of {len(self._layers)} layers ({names[0]}, ...): their "
                "start knows no data; raise task.calibration_samples, or take what is not used out of "
                "model.target_modules",
                stacklevel=2,
            )

    def _stored(self, kind: str, name: str) -> Tensor:
        """The accumulator of a statistic after the last pass; zeros if no pass of this rank has reached the layer."""
        total = self._sums.take((kind, name))
        if total is not None:
            return total
        layer = self._layers[name]
        shape, dtype = _accumulator(kind, layer)
        return torch.zeros(shape, dtype=dtype, device=layer.weight.device)

    def _decomposed_total(self, name: str) -> dict[Spectral, SVD]:
        if name in self._sketches:
            return {"gradient": self._sketched(name)}
        return self._decomposed(name, self._stored("gradient", name))

    @contextmanager
    def _clock(self, part: str) -> Iterator[None]:
        began = now()
        yield
        self._seconds[part] += now() - began


def decompose(matrix: Tensor, of: Spectral, name: str, request: CalibrationRequest) -> SVD:
    """The leading singular triplets of one matrix of a layer, on the CPU.

    Args:
        matrix: (out, in).
        of: which matrix it is; with the layer's name it seeds the random stream of the solver.
        name: the layer.
        request: number of triplets and solver.

    Raises:
        ValueError: as `leading_svd`.
    """
    k = request.svd.width(matrix.shape, request.num_singular)
    return on_host(leading_svd(matrix, k, request.svd, rng.stream(0, f"svd/{of}/{name}")))


def on_host(svd: SVD) -> SVD:
    """A copy on the CPU that shares no memory with larger tensors."""
    return SVD(svd.U.cpu().clone(), svd.S.cpu().clone(), svd.Vh.cpu().clone(), svd.error)


def _side(kind: str, layer: nn.Linear) -> int:
    """Length of the vectors that a statistic other than the gradient is of."""
    return layer.out_features if kind in ("output_covariance", "output_fisher") else layer.in_features


def _accumulator(kind: str, layer: nn.Linear) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and precision in which a statistic is summed."""
    if kind == "gradient":
        return (layer.out_features, layer.in_features), torch.float32
    side = _side(kind, layer)
    if kind in ("input_covariance", "output_covariance"):
        return (side, side), torch.float32
    return ((side + 1,) if kind == "output_fisher" else (side + 1, side + 1)), torch.float64  # with a count


def _scaled_moments(tokens: Tensor, rows: Tensor) -> Float[Tensor, "side side"]:
    """The sum of Xᵀ X over sequences X, each divided by the magnitude of its largest entry."""
    sequences = [sequence[counted].float() for sequence, counted in zip(rows, tokens, strict=True)]
    scaled = torch.cat([sequence / sequence.max().abs() for sequence in sequences if len(sequence)])
    return scaled.T @ scaled


def _moments(vectors: Float[Tensor, "tokens in"]) -> Float[Tensor, "in+1 in+1"]:
    """The sum of [x, 1] [x, 1]ᵀ: squares, sums and count in one matrix."""
    vectors = vectors.double()
    with_one = torch.cat([vectors, torch.ones_like(vectors[:, :1])], dim=1)
    return with_one.T @ with_one


def _squares(vectors: Float[Tensor, "tokens out"]) -> Float[Tensor, "out+1"]:
    """The sums of squares, and the count."""
    return torch.cat([vectors.double().square().sum(dim=0), vectors.new_tensor([len(vectors)], dtype=torch.float64)])


def _covariance(moments: Float[Tensor, "in+1 in+1"]) -> Float[Tensor, "in in"]:
    """The covariance of vectors x from the accumulated sum of [x, 1] [x, 1]ᵀ."""
    count = moments[-1, -1].clamp(min=1)  # of a layer that no token reaches: zeros
    mean = moments[:-1, -1] / count
    return (moments[:-1, :-1] / count - torch.outer(mean, mean)).float()


def _mean(sums: Tensor) -> Tensor:
    """The means without the count, which is the last entry of the vector or matrix of sums; zeros of a count of 0."""
    count = sums.flatten()[-1].clamp(min=1)
    return (sums[(slice(-1),) * sums.dim()] / count).float()
