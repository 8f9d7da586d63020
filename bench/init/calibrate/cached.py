"""Calibration paid once: computed by the first cell that needs it, read by the others.

It depends on the weights, the samples, what is wanted, and the software and hardware that compute; not on the learning
rate, the seed of training, or a rank that `svd.rank` covers.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from bench.init.calibrate.result import Calibration, Wanted
from bench.init.calibrate.stage import calibrate
from bench.init.store import Cache, Entry, tensors_sha256
from bench.model.gradients import Batch
from bench.model.layers import heads
from bench.model.load import UNKNOWN, LoadedModel
from bench.process import ranks
from bench.process.provenance import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bench.tasks import PreparedTask


def shared(
    loaded: LoadedModel, layers: Mapping[str, nn.Linear], task: PreparedTask, wanted: Wanted, cache: Cache
) -> tuple[Calibration, bool]:
    """What is wanted of the pretrained model, and whether it was read instead of computed.

    Weights of unknown origin are calibrated each time.
    """
    if wanted == Wanted():
        return Calibration(), False
    checkpointing = task.calibration_checkpointing

    def compute() -> Entry:
        return calibrate(loaded.model, layers, task.calibration, wanted, checkpointing=checkpointing).to_entry()

    if loaded.revision == UNKNOWN:
        return Calibration.from_entry(*compute()), False
    name = key(loaded.revision, loaded.model, layers, task.calibration, wanted, checkpointing, fingerprint())
    title = f"{Path(str(loaded.model.name_or_path)).name}, {wanted.title}"
    title += f", {len(task.calibration_ids)} samples" if wanted.data else ""
    fetch = cache.fetch if ranks.size() == 1 else functools.partial(_fetch_together, cache)
    entry, read = fetch(name, title, compute)
    return Calibration.from_entry(*entry), read


def _fetch_together(cache: Cache, name: str, title: str, compute: Callable[[], Entry]) -> tuple[Entry, bool]:
    """`cache.fetch` for processes that compute together: the first one reads and writes."""
    first = ranks.rank() == 0
    usable = first and cache.usable()
    found = ranks.broadcast_object(cache.look(name) if usable else None)
    if found is not None:
        return found, True
    entry = compute()
    if usable:
        cache.keep(name, title, entry)
    return entry, False


def key(
    revision: str,
    model: PreTrainedModel,
    layers: Mapping[str, nn.Linear],
    batches: Sequence[Batch],
    wanted: Wanted,
    checkpointing: bool,
    environment: str,
) -> str:
    """A hash of all that calibration's numbers depend on: not the rank, the learning rate or the seed of training.

    Args:
        revision: what identifies the weights.
        environment: what identifies software and hardware; the last digits depend on them.
    """
    description = {
        "revision": revision,
        "dtype": str(model.dtype),
        "layers": list(layers),
        "wanted": wanted.to_dict(),
        "checkpointing": checkpointing and wanted.gradient,
        "environment": environment,
        "processes": ranks.size(),
        "code": _code_sha256(),
        "head": _head_sha256(model) if wanted.data else None,
        "samples": [tensors_sha256(batch) for batch in batches] if wanted.data else None,
    }
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _head_sha256(model: PreTrainedModel) -> str | None:
    """Of a classification head, which no checkpoint holds: each seed has its own."""
    head = {f"{name}.{key}": t for name, m in heads(model).items() for key, t in m.state_dict().items()}
    return tensors_sha256(head) if head else None


@functools.cache
def _code_sha256() -> str:
    """Of the files that the numbers come from: an entry that other code has made is not read."""
    root = Path(__file__).parents[2]
    others = (root / name for name in ("model/gradients.py", "methods/svd.py", "process/ranks.py"))
    files = [*sorted(Path(__file__).parent.glob("*.py")), *others]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
