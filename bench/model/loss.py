"""A model's loss on a batch, with the vocabulary projection at label tokens only wherever transformers can.

The logits of a prompt enter no loss, and of a large vocabulary they are the largest tensor of a step. transformers'
causal models take the positions to project as `logits_to_keep`; what they do to logits (scaling, soft-capping, a bias)
stays theirs. The decoder of a sequence-to-sequence model holds target tokens only, and an encoder projects one vector.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

Batch = Mapping[str, Tensor]

IGNORED = -100  # the label that torch's cross entropy leaves out


def num_label_tokens(labels: Tensor) -> Tensor:
    """Number of label tokens of each row: (batch, tokens) -> (batch,); ones for labels (batch,).

    The first label of a causal model's row is IGNORED, as nothing predicts the first token.
    """
    return torch.ones_like(labels, dtype=torch.long) if labels.dim() == 1 else (labels != IGNORED).sum(dim=1)


def projects_labels(model: Any) -> bool:
    """Whether `mean_loss` of this causal model computes logits at label tokens only.

    Not of a model that adds a loss of its router, which it computes from whole batches by itself.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model  # of PEFT
    if plain.config.is_encoder_decoder or plain.get_output_embeddings() is None:
        return False
    routed = getattr(plain.config.get_text_config(), "output_router_logits", False)
    return "logits_to_keep" in inspect.signature(plain.forward).parameters and not routed


def mean_loss(model: Any, batch: Batch, *, whole: bool = False, call: Any = None) -> Float[Tensor, ""]:
    """The mean loss over the label tokens of a batch (of an encoder: over its rows).

    Args:
        model: the model, possibly a PeftModel.
        batch: input_ids and attention_mask (batch, tokens), and labels: (batch, tokens) of a causal model,
            (batch, target tokens) or (batch,). Where rows hold several examples, also position_ids (batch, tokens):
            the model is given these in place of attention_mask.
        whole: projects every token, as where the projection itself is looked at.
        call: what is called in the model's place, such as its wrapper for several processes.
    """
    call = call or model
    packed = "position_ids" in batch
    given: dict[str, Any] = {name: t for name, t in batch.items() if name != "attention_mask" or not packed}
    given |= {"use_cache": False} if packed else {}  # with a cache, transformers does not look at positions
    if whole or not projects_labels(model):
        return call(**given).loss
    following = pad(given.pop("labels")[:, 1:], (0, 1), value=IGNORED)  # the token that each position predicts
    kept = following != IGNORED
    logits = call(**given, logits_to_keep=kept).logits
    targets = following[kept]
    return model.loss_function(logits, targets, vocab_size=logits.shape[-1], shift_labels=targets)
