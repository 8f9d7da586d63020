"""Prompts and targets as tokens and labels, for each kind of model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass
from torch.nn.utils.rnn import pad_sequence

from bench.model.loss import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bench.model.load import Kind


@plain_dataclass(frozen=True)
class Example:
    """One training example.

    Attributes:
        input_ids: tokens of the prompt; of a causal model those of the target, too.
        labels: of a causal model one a token, those of the prompt IGNORED; of a sequence-to-sequence model the target's
            tokens; of an encoder the class, or the number to predict.
        token_type_ids: which of two texts a token belongs to, if the tokenizer has them.
        truncated: whether tokens were cut off.
    """

    input_ids: list[int]
    labels: list[int] | int | float
    token_type_ids: list[int] | None = None
    truncated: bool = False

    @property
    def num_tokens(self) -> int:
        """Number of prompt and target tokens."""
        apart = isinstance(self.labels, list) and self.labels[0] != IGNORED  # a causal model's first label is
        return len(self.input_ids) + (len(self.labels) if apart and isinstance(self.labels, list) else 0)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Classification:
    """The form of a task for an encoder with a classification head.

    Attributes:
        texts: the one or two text fields that it reads.
        num_labels: classes, numbered from 0 in the field `label`; 1 is regression of its value.
    """

    texts: tuple[str, ...]
    num_labels: PositiveInt

    def label(self, row: dict[str, Any]) -> int | float:
        """The class of a row, or the number to predict; which rows have one was checked when they were read."""
        return float(row["label"]) if self.num_labels == 1 else row["label"]


def opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens, such as BOS, with which the tokenizer's template starts a text.

    Those that it appends, such as EOS, are none of a prompt's: an answer is to follow.
    """
    text = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer("a").input_ids
    return next((whole[:i] for i in range(len(whole)) if whole[i : i + len(text)] == text), [])


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, kind: Kind) -> list[int]:
    """A causal model's tokens of a prompt, after the template's opening; or an encoder's, with the whole template."""
    if kind == "causal":
        return _opened(tokenizer, _plain(tokenizer, prompt))
    return list(tokenizer(prompt).input_ids)


def encode_pair(
    tokenizer: PreTrainedTokenizerBase, prompt: str, target: str, kind: Kind
) -> tuple[list[int], list[int]]:
    """Tokens of a prompt, and those of the text that continues it (causal) or that the decoder writes (seq2seq).

    A causal model's two are encoded as one text, unless that would join them in a token: a generating model is given
    the prompt's tokens alone.
    """
    if kind == "seq2seq":
        return encode_prompt(tokenizer, prompt, kind), _plain(tokenizer, target)
    ids, whole = _plain(tokenizer, prompt), _plain(tokenizer, prompt + target)
    behind = whole[len(ids) :] if whole[: len(ids)] == ids else []
    return _opened(tokenizer, ids), behind or _continuation(tokenizer, target)


def move_spaces(prompt: str, target: str) -> tuple[str, str]:
    """White space at the end of the prompt moved to the target, as lm-eval does to score an answer's likelihood."""
    kept = prompt.rstrip()
    return kept, prompt[len(kept) :] + target


def windows(tokenizer: PreTrainedTokenizerBase, text: str, max_length: int) -> list[tuple[list[int], list[int]]]:
    """lm-eval's rolling windows over a text, each of at most `max_length` tokens: those only read, those predicted.

    Every token of the text is predicted once. The first window starts from the last token of the template's opening,
    else from BOS, or EOS where there is none; each other one from the token before.
    """
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    ids, first = _plain(tokenizer, text), _opened(tokenizer, [])[-1]
    return [make_disjoint_window(pair) for pair in get_rolling_token_windows(ids, first, max_length - 1, context_len=1)]


def _plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def _opened(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    start = opening(tokenizer)
    if ids[: len(start)] != start:  # a prompt may spell its BOS out
        ids = start + ids
    return ids or [tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id]


def _continuation(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    # After a line break, as SentencePiece puts a space before the first word of a text.
    line_break, ids = _plain(tokenizer, "\n"), _plain(tokenizer, f"\n{text}")
    return ids[len(line_break) :] if ids[: len(line_break)] == line_break else _plain(tokenizer, text)


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, target: str) -> Example:
    """For a causal model: tokens of the prompt, then of the target, then EOS; target and EOS are label tokens.

    The tokens are those that lm-eval is given to score the pair. EOS is not scored: a generated answer ends with it,
    and a choice is compared without it.
    """
    prompt_ids, target_ids = encode_pair(tokenizer, prompt, target, "causal")
    labels = [*target_ids, tokenizer.eos_token_id]
    return Example(prompt_ids + labels, [IGNORED] * len(prompt_ids) + labels)


def encode_seq2seq(tokenizer: PreTrainedTokenizerBase, prompt: str, target: str, max_length: int) -> Example:
    """For a sequence-to-sequence model: the prompt for its encoder, target and EOS as labels, each cut to max_length.

    Args:
        tokenizer: the model's.
        prompt: its start is cut, as lm-eval does.
        target: the text to generate; its end is cut.
        max_length: tokens of the prompt, and tokens of the target.
    """
    prompt_ids, target_ids = encode_pair(tokenizer, prompt, target, "seq2seq")
    labels = [*target_ids, tokenizer.eos_token_id]
    cut = len(prompt_ids) > max_length or len(labels) > max_length
    return Example(prompt_ids[-max_length:], labels[:max_length], truncated=cut)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, max_length: int) -> list[Example]:
    """For language modelling: an example for each of the `windows` in which perplexity is measured."""
    found = windows(tokenizer, text, max_length)
    return [Example(seen + asked, [IGNORED] * len(seen) + asked) for seen, asked in found]


def classify(
    tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], classification: Classification, max_length: int
) -> Example:
    """For an encoder: one or two texts with the tokenizer's special tokens, and the row's label.

    Args:
        tokenizer: the model's.
        row: a row of the dataset.
        classification: its text fields and labels.
        max_length: tokens to which a longer row is cut.
    """
    texts = [row[field] for field in classification.texts]
    whole = tokenizer(*texts)
    cut = len(whole.input_ids) > max_length
    encoded = tokenizer(*texts, truncation=True, max_length=max_length) if cut else whole
    return Example(encoded.input_ids, classification.label(row), encoded.get("token_type_ids"), cut)


def collate(examples: Sequence[Example], pad_token_id: int) -> dict[str, torch.Tensor]:
    """A batch padded on the right: input_ids and attention_mask (batch, tokens), and labels.

    Labels are (batch, tokens), (batch, target tokens) or (batch,), by the kind of model; token_type_ids (batch,
    tokens) are added if the examples have them.
    """

    def padded(sequences: list[list[int]], value: int) -> torch.Tensor:
        return pad_sequence([torch.tensor(s) for s in sequences], batch_first=True, padding_value=value)

    batch = {
        "input_ids": padded([e.input_ids for e in examples], pad_token_id),
        "attention_mask": padded([[1] * len(e.input_ids) for e in examples], 0),
    }
    types = [e.token_type_ids for e in examples if e.token_type_ids is not None]
    if types:
        batch["token_type_ids"] = padded(types, 0)
    labels = [e.labels for e in examples]
    sequences = [label for label in labels if isinstance(label, list)]
    batch["labels"] = padded(sequences, IGNORED) if sequences else torch.tensor(labels)
    return batch
