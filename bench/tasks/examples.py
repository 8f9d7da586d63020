"""Prompts and targets as tokens: what the loss sees, and what it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that torch's cross entropy leaves out


@dataclass(frozen=True)
class Example:
    """One training example; the labels of the prompt are IGNORED."""

    input_ids: list[int]
    labels: list[int]


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer starts a text with a token of its own; scoring then does so too."""
    ids = tokenizer("a").input_ids
    return tokenizer.bos_token_id is not None and bool(ids) and ids[0] == tokenizer.bos_token_id


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, target: str) -> Example:
    """Tokens of the prompt, then of the target, then EOS; the loss counts target and EOS.

    Prompt and target are encoded apart, because a generating model is given the prompt's tokens alone.
    """
    start = [tokenizer.bos_token_id] if adds_bos(tokenizer) else []
    prompt_ids = start + tokenizer(prompt, add_special_tokens=False).input_ids
    target_ids = [*tokenizer(target, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    return Example(prompt_ids + target_ids, [IGNORED] * len(prompt_ids) + target_ids)


def num_learned(labels: torch.Tensor) -> torch.Tensor:
    """Label tokens of each row that a causal model's loss counts: (batch, tokens) -> (batch,)."""
    return (labels[:, 1:] != IGNORED).sum(dim=1)


def collate(examples: Sequence[Example], pad_token_id: int) -> dict[str, torch.Tensor]:
    """A batch padded on the right: input_ids, attention_mask and labels, each (batch, tokens)."""

    def padded(sequences: list[list[int]], value: int) -> torch.Tensor:
        return pad_sequence([torch.tensor(s) for s in sequences], batch_first=True, padding_value=value)

    return {
        "input_ids": padded([e.input_ids for e in examples], pad_token_id),
        "attention_mask": padded([[1] * len(e.input_ids) for e in examples], 0),
        "labels": padded([e.labels for e in examples], IGNORED),
    }
