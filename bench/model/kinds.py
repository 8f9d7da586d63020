"""The kinds of model: decoders, encoder-decoders, and encoders of text or of images with a classification head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Kind = Literal["causal", "seq2seq", "encoder", "vision"]
CLASSIFIERS: frozenset[Kind] = frozenset({"encoder", "vision"})  # they get a head with an output a class
AUTO_CLASSES: dict[Kind, str] = {
    "causal": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "encoder": "AutoModelForSequenceClassification",
    "vision": "AutoModelForImageClassification",
}


def kind_of(config: Mapping[str, Any], path: str) -> Kind:
    """The kind of model that a config.json describes; a classifier is one with whichever head it was saved.

    Raises:
        ValueError: it is none of these kinds.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
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
    if architectures and model_type in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        return "vision"
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "causal"
    raise ValueError(
        f"model {path} ({model_type}, {architectures}) is of no kind that can be told from its config.json; "
        "set model.kind=causal, seq2seq, encoder or vision"
    )


def auto_class(kind: Kind) -> Any:
    """The class of transformers that loads a model of this kind."""
    import transformers

    return getattr(transformers, AUTO_CLASSES[kind])
