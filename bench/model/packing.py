"""Several examples in one row: whether a model keeps them apart, which it is to read from its positions."""

from __future__ import annotations

import inspect
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from bench.model.layers import evaluating
from bench.process import rng

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.03}  # of the largest logit
_found: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def understands_packing(model: Any) -> bool:
    """Whether rows of several examples give the logits of each by itself, where positions start again.

    It is tried on the model, once: two rows of two short examples against the four by themselves. Models with relative
    positions or a state, classifiers and encoder-decoders do not.

    Args:
        model: the model, possibly a PeftModel.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    if plain not in _found:
        _found[plain] = _tried(plain)
    return _found[plain]


@torch.no_grad()
def _tried(model: Any) -> bool:
    causal = not model.config.is_encoder_decoder and model.get_output_embeddings() is not None
    if not causal or "position_ids" not in inspect.signature(model.forward).parameters or model.device.type == "meta":
        return False
    lengths = [(5, 4), (3, 6)]
    vocabulary = min(model.config.get_text_config().vocab_size, 1000)
    with rng.preserved(), evaluating(model):
        torch.manual_seed(0)
        ids = torch.randint(1, vocabulary, (2, 9)).to(model.device)
        positions = torch.tensor([[*range(a), *range(b)] for a, b in lengths]).to(model.device)
        try:
            together = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        except (TypeError, ValueError, RuntimeError):  # whatever a model makes of positions that it does not take
            return False
        alone = [_alone(model, row, a) for row, (a, _) in zip(ids, lengths, strict=True)]
    expected = torch.stack(alone)
    difference = (together - expected).abs().max() / expected.abs().max()
    return bool(difference <= TOLERANCE.get(expected.dtype, 0.0))


def _alone(model: Any, row: Tensor, first: int) -> Tensor:
    """Logits of a row's two examples, each by itself."""
    return torch.cat([model(input_ids=part[None], use_cache=False).logits[0] for part in (row[:first], row[first:])])
