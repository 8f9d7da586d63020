"""Calibration as a stage: batches are halved until they fit into memory, sketches too rough are replaced."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn
from transformers import PreTrainedModel

from bench.init.calibrate.collect import Collector, decompose, split
from bench.init.calibrate.dimension import block_dimensions
from bench.init.calibrate.result import Calibration, CalibrationRequest
from bench.methods.base import Statistic
from bench.model.gradients import Batch, is_routed
from bench.model.pieces import Cutter, num_samples
from bench.process import ranks
from bench.process.phases import now, peak_bytes

OF_BLOCKS: frozenset[Statistic] = frozenset({"block_dimensions"})


def calibrate(
    model: PreTrainedModel,
    layers: Mapping[str, nn.Linear],
    batches: Sequence[Batch],
    request: CalibrationRequest,
    *,
    checkpointing: bool = False,
) -> Calibration:
    """The statistics of the pretrained model, dropout off; each rank passes over its shard of the samples.

    Args:
        model: left as it was, also after an error.
        layers: target layers by name.
        batches: calibration batches; the mean of the gradient weighs each equally. Not read if weights suffice.
        request: the statistics to return.
        checkpointing: computes each block's activations twice instead of keeping them.

    Raises:
        ValueError: the loss is not finite, there are no batches, one sample needs more memory than there is, or experts
            are to be sketched by several processes.
    """
    if request.sketched and ranks.size() > 1 and (experts := [name for name in layers if is_routed(name)]):
        raise ValueError(
            f"method.gradient=sketch cannot be shared by {ranks.size()} processes for experts ({experts[0]}, ...): "
            "sketches begin together, but tokens reach other experts in each; take method.gradient=exact or one process"
        )
    of_layers = replace(request, matrices=request.matrices - OF_BLOCKS)
    found = _from_data(model, layers, batches, of_layers, checkpointing) if of_layers.data else Calibration()
    if request.matrices & OF_BLOCKS:
        began = now()
        found.block_dimensions = block_dimensions(model, layers, batches)
        found.facts.seconds = found.facts.seconds | {"dimensions": now() - began}
        found.facts.num_samples = sum(map(num_samples, batches))
    if "weight" in request.svds:
        from bench.model.adapter import float_weight

        began = now()
        found.svds["weight"] = ranks.map_over_ranks(
            list(layers), lambda name: decompose(float_weight(layers[name]), "weight", name, request)
        )
        svd_seconds = found.facts.seconds.get("svd", 0.0) + now() - began
        found.facts.seconds = found.facts.seconds | {"svd": svd_seconds}
    rough = [name for name, svd in found.svds.get("gradient", {}).items() if svd.error > request.svd.sketch_bound]
    if request.sketched and rough:
        warnings.warn(
            f"the sketch of {len(rough)} of {len(layers)} layers may be off by an angle whose sine exceeds "
            f"svd.sketch_bound={request.svd.sketch_bound:g}; their gradients are formed instead",
            stacklevel=2,
        )
        exact = replace(request, matrices=frozenset(), svds=frozenset({"gradient"}), sketched=False)
        again = _from_data(model, {name: layers[name] for name in rough}, batches, exact, checkpointing)
        found.svds["gradient"] |= again.svds["gradient"]
        found.facts.exact_layers = rough
        found.facts.seconds = dict(Counter(found.facts.seconds) + Counter(again.facts.seconds))
    found.facts.peak_bytes = peak_bytes()
    return found


def _from_data(
    model: PreTrainedModel,
    layers: Mapping[str, nn.Linear],
    batches: Sequence[Batch],
    request: CalibrationRequest,
    checkpointing: bool,
) -> Calibration:
    """The statistics that need samples; a batch that does not fit into memory is halved, down to one sample."""
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    if not batches:
        raise ValueError("calibration needs at least one batch: task.calibration_samples must be positive")
    cutter, most_rows = Cutter(model, pack=not request.matrices - {"gradient"}), None  # covariances are of samples
    while True:
        collector, pieces = Collector(model, layers, request), split(batches, cutter, most_rows)
        size = max(num_samples(piece.batch) for piece in pieces)
        try:
            found = collector.run(pieces, checkpointing)
            if found is not None:
                return found
            most_rows = 1
            continue
        except RuntimeError as error:
            if not should_reduce_batch_size(error) or ranks.size() > 1:
                raise
            if size == 1:
                raise ValueError(
                    f"calibration does not fit into memory with one sample a pass: at {collector.at}, {_bytes(error)}; "
                    "set task.calibration_checkpointing=true, or take a shorter task.max_length or a smaller model"
                ) from error
            problem = f"at {collector.at}, {_bytes(error)}"
        warnings.warn(
            f"{size} samples a pass do not fit into memory ({problem}); going on with {size // 2}", stacklevel=3
        )
        most_rows = size // 2
        clear_device_cache(garbage_collection=True)


def _bytes(error: RuntimeError) -> str:
    found = re.search(r"tried to allocate ([\d.]+ ?\w+)", str(error), re.IGNORECASE)
    return f"{found.group(1)} could not be had" if found else "memory ran out"
