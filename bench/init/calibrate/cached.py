"""Calibration once a sweep: computed by the first cell that needs it, read from the cache by the others.

Its numbers depend on the weights, the samples, the request, and the software and hardware that compute; not on the
learning rate, the seed of training, or a rank that `svd.rank` covers.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from bench.init.calibrate.result import Calibration, CalibrationRequest
from bench.init.calibrate.stage import calibrate
from bench.model.layers import heads
from bench.model.load import UNKNOWN, LoadedModel
from bench.process import ranks
from bench.process.provenance import fingerprint
from bench.process.store import Cache, tensors_sha256
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

    def compute() -> Calibration:
        checkpointing = task.calibration_checkpointing
        return calibrate(loaded.model, layers, task.calibration, request, checkpointing=checkpointing)

    if loaded.revision == UNKNOWN:
        return compute(), False
    name = key(loaded, layers, task, request, fingerprint())
    title = f"{Path(str(loaded.model.name_or_path)).name}, {request.title}"
    title += f", {len(task.calibration_ids)} samples" if request.data else ""
    return cache.fetch(name, title, compute, Calibration)


def key(
    loaded: LoadedModel,
    layers: Mapping[str, nn.Linear],
    task: PreparedTask,
    request: CalibrationRequest,
    environment: str,
) -> str:
    """A hash of all that calibration's numbers depend on: not the rank, the learning rate or the seed of training.

    Args:
        loaded: its revision, its dtype and, if it has one, its classification head enter the hash.
        layers: the target layers by name.
        task: its calibration batches where data is needed, and whether a backward pass checkpoints.
        request: the statistics to return.
        environment: identifies software and hardware, on which the last digits depend.
    """
    description = {
        "revision": loaded.revision,
        "dtype": str(loaded.model.dtype),
        "layers": list(layers),
        "request": request.to_dict(),
        "checkpointing": task.calibration_checkpointing and request.gradient,
        "environment": environment,
        "processes": ranks.size(),
        "code": _code_sha256(),
        "head": _head_sha256(loaded.model) if request.data else None,
        "samples": [tensors_sha256(batch) for batch in task.calibration] if request.data else None,
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
    others = (
        root / name
        for name in ("model/gradients.py", "model/loss.py", "model/pieces.py", "methods/svd.py", "process/ranks.py")
    )
    files = [*sorted(Path(__file__).parent.glob("*.py")), *others]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
