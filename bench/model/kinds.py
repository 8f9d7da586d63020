"""The three kinds of model: decoders, encoder-decoders, and encoders with a classification head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Kind = Literal["causal", "seq2seq", "encoder"]


def kind_of(config: Mapping[str, Any], path: str) -> Kind:
    """The kind of model that a config.json describes; an encoder is one with whichever head it was saved.

    Raises:
        ValueError: it is none of the three kinds.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    )

    architectures = config.get("architectures") or []
    if config.get("is_encoder_decoder"):
        return "seq2seq"
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        return "causal"
    model_type = config.get("model_type")
    if architectures and model_type in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        return "encoder"
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "causal"
    raise ValueError(
        f"model {path} ({model_type}, {architectures}) is of no kind that can be told from its config.json; "
        "set model.kind=causal, seq2seq or encoder"
    )


def auto_class(kind: Kind) -> Any:
    """The class of transformers that loads a model of this kind."""
    import transformers

    ends = {"causal": "CausalLM", "seq2seq": "Seq2SeqLM", "encoder": "SequenceClassification"}
    return getattr(transformers, f"AutoModelFor{ends[kind]}")
