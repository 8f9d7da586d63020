"""Calibration once a sweep: computed by the first cell that needs it, read from the cache by the others.

Its numbers depend on the weights, the samples, the request, and the software and hardware that compute; not on the
learning rate, the seed of training, or a rank that `svd.rank` covers.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from bench.init.calibrate.result import Calibration, CalibrationRequest
from bench.init.calibrate.stage import calibrate
from bench.init.store import Cache, tensors_sha256
from bench.model.gradients import Batch
from bench.model.layers import heads
from bench.model.load import UNKNOWN, LoadedModel
from bench.process import ranks
from bench.process.provenance import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bench.tasks import PreparedTask


def shared(
    loaded: LoadedModel, layers: Mapping[str, nn.Linear], task: PreparedTask, request: CalibrationRequest, cache: Cache
) -> tuple[Calibration, bool]:
    """The statistics of the pretrained model, from the cache if it holds them; else they are computed and stored.

    Weights of unknown origin are calibrated each time.

    Args:
        loaded: the pretrained model, with the revision that identifies its weights.
        layers: the target layers by name.
        task: its calibration batches.
        request: the statistics to return; an empty one costs nothing.
        cache: where other runs may have stored the same calibration.

    Returns:
        The calibration, and whether it was read from the cache.

    Raises:
        ValueError: as `calibrate`.
    """
    if request == CalibrationRequest():
        return Calibration(), False
    checkpointing = task.calibration_checkpointing

    def compute() -> Calibration:
        return calibrate(loaded.model, layers, task.calibration, request, checkpointing=checkpointing)

    if loaded.revision == UNKNOWN:
        return compute(), False
    name = key(loaded.revision, loaded.model, layers, task.calibration, request, checkpointing, fingerprint())
    title = f"{Path(str(loaded.model.name_or_path)).name}, {request.title}"
    title += f", {len(task.calibration_ids)} samples" if request.data else ""
    return cache.fetch(name, title, compute, Calibration)


def key(
    revision: str,
    model: PreTrainedModel,
    layers: Mapping[str, nn.Linear],
    batches: Sequence[Batch],
    request: CalibrationRequest,
    checkpointing: bool,
    environment: str,
) -> str:
    """A hash of all that calibration's numbers depend on: not the rank, the learning rate or the seed of training.

    Args:
        revision: identifies the weights.
        model: its dtype and, if it has one, its classification head enter the hash.
        layers: the target layers by name.
        batches: the calibration batches; left out where only weights are decomposed.
        request: the statistics to return.
        checkpointing: whether activations are computed twice; left out without a backward pass.
        environment: identifies software and hardware, on which the last digits depend.
    """
    description = {
        "revision": revision,
        "dtype": str(model.dtype),
        "layers": list(layers),
        "request": request.to_dict(),
        "checkpointing": checkpointing and request.gradient,
        "environment": environment,
        "processes": ranks.size(),
        "code": _code_sha256(),
        "head": _head_sha256(model) if request.data else None,
        "samples": [tensors_sha256(batch) for batch in batches] if request.data else None,
    }
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _head_sha256(model: PreTrainedModel) -> str | None:
    """The hash of a classification head, which no checkpoint holds: each seed has its own."""
    head = {f"{name}.{key}": t for name, m in heads(model).items() for key, t in m.state_dict().items()}
    return tensors_sha256(head) if head else None


@functools.cache
def _code_sha256() -> str:
    """The hash of the files that compute the numbers: an entry that other code has made is not read."""
    root = Path(__file__).parents[2]
    others = (root / name for name in ("model/gradients.py", "methods/svd.py", "process/ranks.py"))
    files = [*sorted(Path(__file__).parent.glob("*.py")), *others]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
