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
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss, pad

Batch = Mapping[str, Tensor]

IGNORED = -100  # the label that torch's cross entropy leaves out
LOGITS_AT_A_TIME = 256  # that are converted to float32 together


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
    following = _following(given.pop("labels"))
    kept = following != IGNORED
    logits = call(**given, logits_to_keep=kept).logits
    targets = following[kept]
    return model.loss_function(logits, targets, vocab_size=logits.shape[-1], shift_labels=targets)


def row_losses(model: Any, batch: Batch) -> tuple[Float[Tensor, " batch"], Int[Tensor, " batch"]]:
    """The loss of each row of a batch, summed over its label tokens in float64, and the number of these.

    Cross-entropy in float32; of an encoder that of the row's class, or the squared error of a regression. What a model
    adds to its training loss, such as a router's, is not in it.

    Args:
        model: the model, possibly a PeftModel.
        batch: as `mean_loss` takes it, a row an example.
    """
    labels = batch["labels"]
    given = {name: tensor for name, tensor in batch.items() if name != "labels"}
    if labels.dim() == 1:
        logits = model(**given).logits.float().squeeze(1)
        losses = mse_loss if logits.dim() == 1 else cross_entropy
        return losses(logits, labels, reduction="none").double(), num_label_tokens(labels)
    if model.config.is_encoder_decoder:
        kept = labels != IGNORED
        logits, targets = model(**batch).logits[kept], labels[kept]
    else:
        following = _following(labels)
        kept = following != IGNORED
        cheap = projects_labels(model)
        found = model(**given, **({"logits_to_keep": kept} if cheap else {})).logits
        logits, targets = found if cheap else found[kept], following[kept]
    parts = zip(logits.split(LOGITS_AT_A_TIME), targets.split(LOGITS_AT_A_TIME), strict=True)
    of_tokens = torch.cat([cross_entropy(part.float(), own, reduction="none") for part, own in parts])
    sums = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
    return sums.index_add_(0, kept.nonzero()[:, 0], of_tokens.double()), num_label_tokens(labels)


def _following(labels: Tensor) -> Tensor:
    """The label that each position of a causal model predicts (batch, tokens)."""
    return pad(labels[:, 1:], (0, 1), value=IGNORED)
