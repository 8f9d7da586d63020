"""How a model reads a dataset: by its tokenizer, in the form of its kind, and through a chat template if asked to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from bench.process.hashes import tokenizer_sha256
from bench.tasks.encoded import Examples, Pictures
from bench.tasks.examples import Classification, Example, Pair, Picture, classify, encode, encode_seq2seq, encode_texts

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedTokenizerBase

    from bench.model.load import Kind
    from bench.tasks.chat import Chat

_SETTINGS = ("model_input_names", "truncation_side", "split_special_tokens")


@dataclass(frozen=True)
class Reader:
    """What the tokens of a dataset's rows depend on.

    Attributes:
        tokenizer: the model's, or its image processor.
        kind: of the model.
        limit: tokens at which what can be cut is cut; of a vision model the patches of each image.
        chat: the chat template that prompts and answers go through; None: they are plain text.
    """

    tokenizer: PreTrainedTokenizerBase | Any
    kind: Kind
    limit: int
    chat: Chat | None = None

    @property
    def key(self) -> list[Any] | None:
        """All that the tokens depend on, in any process; None for a tokenizer without a hash, and for images."""
        if (sha256 := tokenizer_sha256(self.tokenizer)) is None:
            return None
        settings = [getattr(self.tokenizer, name, None) for name in _SETTINGS]
        return [sha256, type(self.tokenizer).__qualname__, *settings, self.kind, self.limit, *self.chat_key]

    @property
    def chat_key(self) -> list[Any]:
        """What the texts of prompts and answers depend on."""
        return [] if self.chat is None else [self.chat.key]

    @property
    def examples(self) -> Any:
        """The class that holds what is read."""
        return Pictures if self.kind == "vision" else Examples

    def classified(self, rows: Sequence[dict[str, Any]], classification: Classification) -> list[Any]:
        """Rows for an encoder as Example, and for a vision model as Picture."""
        if (field := classification.image) is not None:
            processor = cast("BaseImageProcessor", self.tokenizer)
            return [Picture(row[field], row["label"], self.limit, processor) for row in rows]
        return classify(self.tokenizer, rows, classification, self.limit)

    def continued(self, pairs: Sequence[Pair], name: str) -> list[Example]:
        """Prompts and the texts that continue them, or texts alone, for a model that writes.

        Args:
            pairs: a prompt is empty where there are texts alone.
            name: the dataset's, for the message.

        Raises:
            ValueError: texts alone, for a model that is not causal.
        """
        if not any(prompt for prompt, _ in pairs):
            if self.kind != "causal":
                raise ValueError(f"{name} is language modelling, which needs a causal model, not {self.kind}")
            return encode_texts(self.tokenizer, [text for _, text in pairs], self.limit)
        if self.kind != "causal":
            return encode_seq2seq(self.tokenizer, pairs, self.limit)
        return encode(self.tokenizer, pairs, None if self.chat is None else self.chat.end)
