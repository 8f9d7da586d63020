"""Prompts and targets as tokens and labels, for each kind of model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass
from torch.nn.utils.rnn import pad_sequence

from bench.model.images import PIXELS, pixel_values
from bench.model.loss import IGNORED

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedTokenizerBase

    from bench.model.load import Kind

Pair = tuple[str, str]  # prompt and target
EncodedPair = tuple[list[int], list[int]]


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


@plain_dataclass(frozen=True)
class Picture:
    """One example of a vision model.

    Attributes:
        image: the text of an image file, as bench.model.images writes it.
        labels: its class.
        num_tokens: patches of which the model makes tokens.
        processor: the model's image processor.
        truncated: never; a larger image is resized.
    """

    image: str
    labels: int
    num_tokens: int
    processor: BaseImageProcessor
    truncated: bool = False


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Classification:
    """The form of a task for a model with a classification head.

    Attributes:
        texts: the one or two text fields that an encoder reads; none where images are classified.
        num_labels: classes, numbered from 0 in the field `label`; 1 is regression of its value.
        image: the field that a vision model reads; None where texts are classified.
    """

    texts: tuple[str, ...]
    num_labels: PositiveInt
    image: str | None = None

    def __post_init__(self) -> None:
        if bool(self.texts) == (self.image is not None):
            raise ValueError(
                f"classification.texts={list(self.texts)} and classification.image={self.image}: say which texts, or "
                "which image, are classified"
            )

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


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], kind: Kind) -> list[list[int]]:
    """A causal model's tokens of prompts, after the template's opening; or an encoder's, with the whole template."""
    if kind == "causal":
        return _opened(tokenizer, _tokens(tokenizer, prompts, add_special_tokens=False))
    return _tokens(tokenizer, prompts)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, kind: Kind) -> list[int]:
    """`encode_prompts` of one."""
    return encode_prompts(tokenizer, [prompt], kind)[0]


def encode_pairs(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], kind: Kind) -> list[EncodedPair]:
    """Tokens of prompts, and those of the texts that continue them (causal) or that the decoder writes (seq2seq).

    A causal model's two are encoded as one text, unless that would join them in a token: a generating model is given
    the prompt's tokens alone. What a decoder writes begins with the template's opening: BART's with <s>, T5's has none.
    """
    prompts, targets = [prompt for prompt, _ in pairs], [target for _, target in pairs]
    if kind == "seq2seq":
        start = opening(tokenizer)
        of_targets = [start + ids for ids in _tokens(tokenizer, targets, add_special_tokens=False)]
        return list(zip(encode_prompts(tokenizer, prompts, kind), of_targets, strict=True))
    ids = _tokens(tokenizer, prompts, add_special_tokens=False)
    joined = _tokens(tokenizer, [prompt + target for prompt, target in pairs], add_special_tokens=False)
    behind = [whole[len(own) :] if whole[: len(own)] == own else [] for own, whole in zip(ids, joined, strict=True)]
    apart = [index for index, tokens in enumerate(behind) if not tokens]
    for index, tokens in zip(apart, _continuations(tokenizer, [targets[index] for index in apart]), strict=True):
        behind[index] = tokens
    return list(zip(_opened(tokenizer, ids), behind, strict=True))


def encode_pair(tokenizer: PreTrainedTokenizerBase, prompt: str, target: str, kind: Kind) -> EncodedPair:
    """`encode_pairs` of one."""
    return encode_pairs(tokenizer, [(prompt, target)], kind)[0]


def move_spaces(prompt: str, target: str) -> Pair:
    """White space at the end of the prompt moved to the target, as lm-eval does to score an answer's likelihood."""
    kept = prompt.rstrip()
    return kept, prompt[len(kept) :] + target


def windows(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> list[list[EncodedPair]]:
    """lm-eval's rolling windows over each text, of at most `max_length` tokens: those only read, those predicted.

    Every token of a text is predicted once. The first window starts from the last token of the template's opening, else
    from BOS, or EOS where there is none; each other one from the token before.
    """
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    first = _opened(tokenizer, [[]])[0][-1]
    return [
        [make_disjoint_window(pair) for pair in get_rolling_token_windows(ids, first, max_length - 1, context_len=1)]
        for ids in _tokens(tokenizer, texts, add_special_tokens=False)
    ]


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **settings: Any) -> list[list[int]]:
    """Tokens of each text, in one call of the tokenizer; equal texts are encoded once."""
    distinct = list(dict.fromkeys(texts))
    if not distinct:  # an empty list is refused
        return []
    lean = {"return_attention_mask": False, "return_token_type_ids": False}
    encoded: list[list[int]] = tokenizer(distinct, **settings, **lean)["input_ids"]
    if len(distinct) == len(texts):
        return encoded
    found = dict(zip(distinct, encoded, strict=True))
    return [list(found[text]) for text in texts]


def _opened(tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]) -> list[list[int]]:
    start = opening(tokenizer)
    alone = [tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id]
    # A prompt may spell its BOS out.
    return [(ids if ids[: len(start)] == start else start + ids) or alone for ids in prompts]


def _continuations(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    # After a line break, as SentencePiece puts a space before the first word of a text.
    if not texts:
        return []
    line_break, *behind = _tokens(tokenizer, ["\n", *(f"\n{text}" for text in texts)], add_special_tokens=False)
    alone = _tokens(tokenizer, texts, add_special_tokens=False)
    return [
        after[len(line_break) :] if after[: len(line_break)] == line_break else ids
        for after, ids in zip(behind, alone, strict=True)
    ]


def encode(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], end_token_id: int | None = None) -> list[Example]:
    """For a causal model: tokens of the prompt, then of the target, then EOS; target and EOS are label tokens.

    The tokens are those that lm-eval is given to score the pair. EOS is not scored: a generated answer ends with it,
    and a choice is compared without it.

    Args:
        tokenizer: the model's.
        pairs: prompts and targets.
        end_token_id: the token that ends a target; None: EOS.
    """
    end = [
        tokenizer.eos_token_id if end_token_id is None else end_token_id
    ]  # looked up once: it takes as long as a row
    found = ((ids, target + end) for ids, target in encode_pairs(tokenizer, pairs, "causal"))
    return [Example(ids + labels, [IGNORED] * len(ids) + labels) for ids, labels in found]


def encode_seq2seq(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], max_length: int) -> list[Example]:
    """For a sequence-to-sequence model: the prompt for its encoder, target and EOS as labels, each cut to max_length.

    Args:
        tokenizer: the model's.
        pairs: prompts, whose start is cut, as lm-eval does; and the texts to generate, whose end is cut.
        max_length: tokens of a prompt, and tokens of a target.
    """
    end = [tokenizer.eos_token_id]
    found = ((ids, target + end) for ids, target in encode_pairs(tokenizer, pairs, "seq2seq"))
    return [
        Example(ids[-max_length:], labels[:max_length], truncated=max(len(ids), len(labels)) > max_length)
        for ids, labels in found
    ]


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> list[Example]:
    """For language modelling: an example for each of the `windows` in which perplexity is measured."""
    found = (window for of_text in windows(tokenizer, texts, max_length) for window in of_text)
    return [Example(seen + asked, [IGNORED] * len(seen) + asked) for seen, asked in found]


def classify(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]], classification: Classification, max_length: int
) -> list[Example]:
    """For an encoder: one or two texts of each row with the tokenizer's special tokens, and the row's label.

    Args:
        tokenizer: the model's.
        rows: rows of the dataset.
        classification: their text fields and labels.
        max_length: tokens to which a longer row is cut.
    """

    def encoded(rows: Sequence[dict[str, Any]], **settings: Any) -> list[tuple[list[int], list[int] | None]]:
        if not rows:
            return []
        found = tokenizer(*([row[field] for row in rows] for field in classification.texts), **settings)
        return list(zip(found["input_ids"], found.get("token_type_ids") or [None] * len(rows), strict=True))

    whole = encoded(rows)
    long = [index for index, (ids, _) in enumerate(whole) if len(ids) > max_length]
    cut = dict(zip(long, encoded([rows[i] for i in long], truncation=True, max_length=max_length), strict=True))
    examples = []
    for index, row in enumerate(rows):
        ids, types = cut.get(index, whole[index])
        examples.append(Example(ids, classification.label(row), types, truncated=index in cut))
    return examples


def collate(examples: Sequence[Example | Picture], pad_token_id: int) -> dict[str, torch.Tensor]:
    """A batch padded on the right: input_ids and attention_mask (batch, tokens), and labels.

    Labels are (batch, tokens), (batch, target tokens) or (batch,), by the kind of model; token_type_ids (batch,
    tokens) are added if the examples have them. Of images: pixel_values (batch, channels, height, width) and labels.
    """
    if isinstance(examples[0], Picture):
        pixels = pixel_values(examples[0].processor, [cast(Picture, e).image for e in examples])
        return {PIXELS: pixels, "labels": torch.tensor([e.labels for e in examples])}
    return _padded([cast(Example, e) for e in examples], pad_token_id)


def _padded(examples: Sequence[Example], pad_token_id: int) -> dict[str, torch.Tensor]:

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
