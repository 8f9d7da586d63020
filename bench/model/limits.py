"""The largest number of tokens that a model accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

NO_LIMIT = 2**31 - 1  # of relative positions, where the tokenizer names none either

# These number positions from pad_token_id + 1, as in fairseq, so that their tables have rows that no token can use.
AFTER_PADDING = frozenset(
    "roberta xlm-roberta xlm-roberta-xl roberta-prelayernorm camembert data2vec-text ibert longformer luke mpnet xmod "
    "esm".split()
)


def max_tokens(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """The largest number of tokens, special ones included; of a sequence-to-sequence model, for each of its two sides.

    Llama, BERT and BART have a row of the position table, or a trained range, for each of max_position_embeddings;
    RoBERTa (514) loses two to padding. T5 has relative positions and no limit of its own: its tokenizer's
    model_max_length holds, or NO_LIMIT if that is missing.
    """
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is None or positions <= 0:  # -1 is XLNet's way of saying none
        return min(int(tokenizer.model_max_length), NO_LIMIT)
    if config.model_type in AFTER_PADDING:
        return int(positions) - int(config.pad_token_id) - 1
    return int(positions)
