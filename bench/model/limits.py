"""What a model takes from its tokenizer: how many tokens, and which padding."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, cast

from bench.model.images import image_size, num_patches

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BaseImageProcessor, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from bench.model.kinds import Kind

NO_LIMIT = 2**31 - 1  # of relative positions, where the tokenizer names none either

# These number positions from pad_token_id + 1, as in fairseq, so that their tables have rows that no token can use.
AFTER_PADDING = frozenset(
    "roberta xlm-roberta xlm-roberta-xl roberta-prelayernorm camembert data2vec-text ibert longformer luke mpnet xmod "
    "esm".split()
)


def max_tokens(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase | Any) -> int:
    """The largest number of tokens, special ones included; of a sequence-to-sequence model, for each of its two sides.

    Llama, BERT and BART have a row of the position table, or a trained range, for each of max_position_embeddings;
    RoBERTa (514) loses two to padding. T5 has relative positions and no limit of its own: its tokenizer's
    model_max_length holds, or NO_LIMIT if that is missing. A vision model takes the patches of an image.

    Args:
        config: the model's.
        tokenizer: the model's; of a vision model its image processor.
    """
    if hasattr(tokenizer, "image_mean"):
        return num_patches(config, image_size(cast("BaseImageProcessor", tokenizer)))
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is None or positions <= 0:  # -1 is XLNet's way of saying none
        return min(int(tokenizer.model_max_length), NO_LIMIT)
    if config.model_type in AFTER_PADDING:
        return int(positions) - int(config.pad_token_id) - 1
    return int(positions)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, kind: Kind, path: str) -> None:
    """Gives a tokenizer without a padding token its EOS token as one.

    Raises:
        ValueError: it has no EOS token, which ends answers and can pad.
    """
    if kind != "encoder" and tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {path} has no EOS token, which ends every answer; set eos_token in it")
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ValueError(f"the tokenizer of {path} has no padding token and no EOS; set pad_token in it")
        tokenizer.pad_token = tokenizer.eos_token


def check_embedded(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    """Refuses a tokenizer that gives ids for which the model has no embedding.

    Special tokens that no text is opened, closed or padded with may lie beyond, as Gemma 3's for images.

    Args:
        model: the loaded model.
        tokenizer: has a padding token.
        path: for the message.

    Raises:
        ValueError: the model has no embedding of the padding or EOS token, or of a token that texts can hold.
    """
    rows = len(cast("Tensor", model.get_input_embeddings().weight))
    for name in ("pad_token", "eos_token"):
        number = getattr(tokenizer, f"{name}_id")
        if number is not None and number >= rows:
            raise ValueError(
                f"the {name} {getattr(tokenizer, name)!r} of the tokenizer of {path} has id {number}, and the model "
                f"embeds ids below {rows}; set {name} to a token that the model has, or save the model with more "
                "embeddings (resize_token_embeddings)"
            )
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    unused = special - set(tokenizer("a").input_ids)
    ids = tokenizer.get_vocab()
    if beyond := {number: token for token, number in ids.items() if number >= rows and number not in unused}:
        first = min(beyond)
        raise ValueError(
            f"the tokenizer of {path} has {len(beyond)} tokens, from {beyond[first]!r} of id {first} on, and the model "
            f"embeds ids below {rows}; save the model with more embeddings (resize_token_embeddings), or its own "
            "tokenizer beside it"
        )


def share_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kind: str) -> None:
    """Gives a classifier the tokenizer's padding token, whatever its configuration says.

    A decoder with a classification head reads its answer from the last token that is no padding.

    Args:
        model: the loaded model; its configuration is changed in place.
        tokenizer: has a padding token.
        kind: of the model.
    """
    config = model.config.get_text_config()
    if kind == "encoder" and config.model_type not in AFTER_PADDING:  # whose positions count from the model's own
        config.pad_token_id = tokenizer.pad_token_id


def check_precision(key: str, precision: str) -> None:
    """Refuses autocast to bfloat16 on a GPU that computes in it by emulation only; warns on a CPU without AVX512.

    On one with AVX2 alone a pass through a block of SmolLM2 took ten times as long as in float32 (torch 2.13).

    Args:
        key: of the configuration, for the message.
        precision: fp32 or bf16.

    Raises:
        ValueError: the GPU has no bfloat16.
    """
    import torch

    if precision != "bf16":
        return
    if not torch.cuda.is_available():
        if torch.backends.cpu.get_cpu_capability() == "AVX2":
            warnings.warn(f"{key}=bf16 is many times slower than fp32 on this CPU, which has no AVX512", stacklevel=2)
        return
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        major, minor = torch.cuda.get_device_capability()
        raise ValueError(
            f"{key}=bf16 needs a GPU of compute capability 8.0, and {torch.cuda.get_device_name()} has "
            f"{major}.{minor}; take {key}=fp32"
        )
