"""bench.train.curvature applied to a model before its first step: products with the Hessian by differentiating twice.

The loss is the mean over the label tokens of a few training examples, with dropout off, in float32 where memory allows.
Nothing of the run (random streams, parameters' gradients, mode, weights) is changed. What cannot be measured is
recorded with its reason and is no error of the run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.model.adapter import MAGNITUDE
from bench.model.layers import evaluating
from bench.model.loss import Batch, mean_loss, num_label_tokens
from bench.model.pieces import Cutter
from bench.process import ranks, rng
from bench.process.memory import available_bytes
from bench.process.validation import one_line
from bench.runs.record_parts import CurvatureFacts
from bench.tasks.examples import collate
from bench.train.curvature import NUM_PRODUCTS, VECTOR_BYTES, Vector, adam_scale, largest_eigenvalue, preconditioned

if TYPE_CHECKING:
    from bench.model.adapter import AdaptedLayer
    from bench.tasks import PreparedTask

FREE_SHARE = 0.5  # of free memory that the vectors may take, as another process may measure, too
FLOAT32_SHARE = 0.5  # of free memory that float32 copies of the frozen weights may take
FASTER = ("lora_B", MAGNITUDE)  # what LoRA+ trains at a multiple of the schedule's rate


class Hessian:
    """The Hessian H of a model's mean loss in its trained tensors, all taken as one vector of n entries.

    Args:
        model: in evaluation mode; attention must be differentiable twice.
        pieces: of the batch; products are summed over them. The graph of a single piece is kept between products.
    """

    def __init__(self, model: Any, pieces: Sequence[Batch]) -> None:
        self._model, self._pieces = model, pieces
        self._tensors = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._total = sum(num_label_tokens(piece["labels"]).sum() for piece in pieces)
        self._kept = self._differentiated(pieces[0]) if len(pieces) == 1 else None

    def gradient(self) -> Vector:
        """g, the gradient of the mean loss."""
        return self._sum(lambda gradient: gradient.detach())

    def product(self, v: Vector) -> Vector:
        """H v."""
        return self._sum(lambda gradient: self._flat(gradient, v, retain_graph=self._kept is not None))

    def _sum(self, of_piece: Any) -> Vector:
        gradients = [self._kept] if self._kept is not None else map(self._differentiated, self._pieces)
        return sum(of_piece(gradient) for gradient in gradients)

    def _differentiated(self, piece: Batch) -> Vector:
        """The gradient of a piece's share of the mean loss, which can be differentiated again."""
        share = num_label_tokens(piece["labels"]).sum() / self._total
        return self._flat(mean_loss(self._model, piece) * share, create_graph=True)

    def _flat(self, of: Tensor, along: Vector | None = None, **graph: bool) -> Vector:
        """The derivative of `of` in the trained tensors; of one that takes no part, zeros."""
        found = torch.autograd.grad(of, self._tensors, along, materialize_grads=True, **graph)
        return torch.cat([part.flatten() for part in found])


def measure(
    model: Any, layers: Sequence[AdaptedLayer], task: PreparedTask, num_rows: int, seed: int, sharded: bool = False
) -> CurvatureFacts:
    """The largest eigenvalues of H and of D^-1/2 H D^-1/2, of a batch that no other stage draws.

    With LoRA+ the rate of B is a multiple of the schedule's: D of its entries is divided by it. DoRA holds the norm of
    V constant where it differentiates, and so does H.

    Args:
        model: the model before its first step.
        layers: its target layers.
        task: its training examples; those of the calibration are taken only where there are no others.
        num_rows: examples.
        seed: draws the examples and the vector that Lanczos' method starts from.
        sharded: whether training shards the weights, because they do not fit one process.

    Returns:
        What the first process has measured, on every process.
    """
    if sharded:
        return CurvatureFacts(reason="train.parallel=fsdp: one process is not to hold what it takes")
    found = _measured(model, layers, task, num_rows, seed) if ranks.rank() == 0 else None
    return cast(CurvatureFacts, ranks.broadcast_object(found))


def _measured(
    model: Any, layers: Sequence[AdaptedLayer], task: PreparedTask, num_rows: int, seed: int
) -> CurvatureFacts:
    """As `measure`, in one process; a batch that does not fit into memory goes through the model in smaller pieces."""
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    used, drawn = {*task.calibration_ids}, torch.randperm(len(task.train), generator=rng.stream(seed, "curvature"))
    chosen = sorted(drawn.tolist(), key=used.__contains__)[:num_rows]
    batch = collate([task.train[index] for index in chosen], task.pad_token_id)
    most_rows, reason = None, ""
    while most_rows != 0:
        try:
            return _eigenvalues(model, layers, batch, most_rows, rng.stream(seed, "curvature/start"))
        except (RuntimeError, ValueError) as error:  # an operation that cannot be differentiated twice, or memory
            reason = one_line(error)
            if not (isinstance(error, RuntimeError) and should_reduce_batch_size(error)):
                break
        most_rows = (most_rows or len(chosen)) // 2
        clear_device_cache(garbage_collection=True)
    return CurvatureFacts(num_rows=len(chosen), reason=reason)


def _eigenvalues(
    model: Any, layers: Sequence[AdaptedLayer], batch: Batch, most_rows: int | None, generator: torch.Generator
) -> CurvatureFacts:
    """Both eigenvalues.

    Raises:
        ValueError: the loss or its curvature is not finite, or the vectors that Lanczos' method keeps do not fit.
        RuntimeError: of torch, where the model cannot be differentiated twice or memory runs out.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    ratios = {id(p): layer.lr_ratio for layer in layers for name, p in layer.parameters().items() if name in FASTER}
    n = sum(p.numel() for p in trained)
    needed, free = VECTOR_BYTES * n, FREE_SHARE * _free_bytes(model.device)
    if needed > free:
        raise ValueError(f"takes {needed / 1e9:.1f} GB for {n:,} parameters, of which {free / 1e9:.1f} are free")
    start = torch.randn(n, generator=generator).to(model.device)
    given = {name: tensor.to(model.device) for name, tensor in batch.items()}
    with rng.preserved(), evaluating(model), _in_float32(model) as dtype, sdpa_kernel(SDPBackend.MATH):
        hessian = Hessian(model, Cutter(model).pieces(given, most_rows=most_rows))
        D = adam_scale(hessian.gradient())
        for parameter, part in zip(trained, D.split([p.numel() for p in trained]), strict=True):
            part.div_(ratios.get(id(parameter), 1.0))
        if not (D.isfinite().all() and D.all()):
            raise ValueError("the gradient is zero, or not finite")
        plain = largest_eigenvalue(hessian.product, start, NUM_PRODUCTS)
        scaled = largest_eigenvalue(preconditioned(hessian.product, D), start, NUM_PRODUCTS)
    if not (math.isfinite(plain.value) and math.isfinite(scaled.value)):
        raise ValueError("the second derivative is not finite")
    return CurvatureFacts(
        plain=plain.value,
        preconditioned=scaled.value,
        residuals={"plain": plain.residual, "preconditioned": scaled.residual},
        num_products={"plain": plain.num_products, "preconditioned": scaled.num_products},
        num_rows=len(batch["labels"]),
        dtype=str(dtype).removeprefix("torch."),
    )


@contextmanager
def _in_float32(model: Any) -> Iterator[torch.dtype]:
    """Computes in float32 inside, with copies of half-precision weights if memory has room for them.

    Yields:
        The dtype of the frozen weights inside.
    """
    half = [p for p in model.parameters() if p.dtype in (torch.bfloat16, torch.float16)]
    if not half or 4 * sum(p.numel() for p in half) > FLOAT32_SHARE * _free_bytes(model.device):
        yield half[0].dtype if half else torch.float32
        return
    stored = [p.data for p in half]
    for parameter in half:
        parameter.data = parameter.data.float()
    try:
        yield torch.float32
    finally:
        for parameter, data in zip(half, stored, strict=True):
            parameter.data = data


def _free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
