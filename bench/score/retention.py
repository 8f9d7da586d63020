"""How much of its pretraining a model keeps: its loss on text of the pretraining kind, before and after training."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self, cast

import torch
from pydantic import ConfigDict, NonNegativeInt
from pydantic.dataclasses import dataclass

from bench.model.limits import max_tokens
from bench.model.loss import IGNORED
from bench.model.places import in_package
from bench.process.hashes import values_sha256
from bench.process.provenance import code_sha256, fingerprint
from bench.runs.record_parts import RetentionFacts
from bench.score.loss import losses_of
from bench.tasks.examples import Example, opening
from bench.tasks.jsonl import read_jsonl

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    from bench.model.load import LoadedModel
    from bench.process.store import Cache, Entry
    from bench.score.settings import Scoring

GENERATED = "generated language"
PACKAGE = "package:"
BLOCK_TOKENS = 1024  # of text; blocks of the generated language are as long as those of pretraining
FIELDS = ("text", "page")  # of a row of a .jsonl file; WikiText-2's is a page


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Retention:
    """The `retention` key, explained in conf/README.md; it changes no other number of a run.

    Attributes:
        text: a .txt or .jsonl file, or a folder of such, of an installed package where it begins with PACKAGE; None: of
            an embedded model the language that it was pretrained on, of any other nothing.
        num_tokens: of the text, from its start; rounded down to whole blocks. 0: nothing.
    """

    text: Path | None
    num_tokens: NonNegativeInt


class Loss(NamedTuple):
    """Nats per token."""

    value: float

    def to_entry(self) -> Entry:
        """For bench.process.store."""
        return {}, self._asdict()

    @classmethod
    def from_entry(cls, tensors: dict[str, torch.Tensor], facts: dict[str, float]) -> Self:
        """The inverse of `to_entry`."""
        return cls(**facts)


@plain_dataclass(frozen=True)
class Kept:
    """The text and the pretrained model's loss on it."""

    name: str
    blocks: list[Example]
    loss_before: float

    def facts(self, trained: LoadedModel, scoring: Scoring) -> RetentionFacts:
        """What the record says, once the model is trained."""
        return RetentionFacts(
            text=self.name,
            num_tokens=sum(len(block.input_ids) for block in self.blocks),
            loss_before=self.loss_before,
            loss_after=_loss(trained, self.blocks, scoring),
        )


def before_training(
    settings: Retention, loaded: LoadedModel, embedded: bool, scoring: Scoring, cache: Cache
) -> Kept | None:
    """Takes the pretrained model's loss, or reads that which another run has taken.

    Args:
        settings: text, and its number of tokens.
        loaded: the pretrained model.
        embedded: whether its pretraining text is the generated language.
        scoring: precision, and tokens at a time.
        cache: what other runs have computed.

    Returns:
        None where nothing is to be measured, and of a model that is no causal language model.

    Raises:
        ValueError: the text cannot be read, or has less than two tokens.
    """
    if not settings.num_tokens or loaded.kind != "causal" or (settings.text is None and not embedded):
        return None
    if settings.text is None:
        name, blocks = GENERATED, _generated(loaded.tokenizer, settings.num_tokens)
    else:
        name, blocks = settings.text.name, _of_text(settings.text, loaded, settings.num_tokens)
    model = loaded.model
    made_by = [code_sha256(), fingerprint(), loaded.revision, str(model.dtype), model.config._attn_implementation]
    key = values_sha256(["retention", *made_by, scoring.precision, [block.input_ids for block in blocks]])
    title = f"pretrained model's loss on {name}"
    found, _ = cache.fetch(key, title, lambda: Loss(_loss(loaded, blocks, scoring)), Loss)
    return Kept(name, blocks, found.value)


def _loss(loaded: LoadedModel, blocks: list[Example], scoring: Scoring) -> float:
    loss, number = losses_of(loaded, blocks, scoring).sum(dim=0).tolist()
    return loss / number


def _generated(tokenizer: PreTrainedTokenizerBase, num_tokens: int) -> list[Example]:
    """Blocks that pretraining has not drawn, those on which it took its own eval loss."""
    from bench.model.embedded.pretrain import HELD_OUT_SEED, Recipe, token_blocks

    recipe = Recipe()
    batches = token_blocks(recipe, cast("PreTrainedTokenizerFast", tokenizer), f"held_out/{HELD_OUT_SEED}", 0.0)
    rows = itertools.chain.from_iterable(batches)
    number = max(1, num_tokens // recipe.sequence_tokens)
    return [_block(row.tolist()) for row in itertools.islice(rows, number)]


def _of_text(path: Path, loaded: LoadedModel, num_tokens: int) -> list[Example]:
    """Documents as the tokenizer opens them, each closed by EOS, one after another, cut into blocks."""
    tokenizer, tokens = loaded.tokenizer, list[int]()
    start, end = opening(tokenizer), [tokenizer.eos_token_id]
    for text in _documents(place(path)):
        tokens += start + tokenizer(text, add_special_tokens=False).input_ids + end
        if len(tokens) >= num_tokens:
            break
    size = min(BLOCK_TOKENS, max_tokens(loaded.model.config, tokenizer), num_tokens)
    whole = min(len(tokens), num_tokens) // size * size or len(tokens)
    if whole < 2:
        raise ValueError(f"retention.text={path} holds {len(tokens)} tokens, and a loss needs two; give a longer text")
    return [_block(tokens[at : at + size]) for at in range(0, whole, size)]


def place(text: Path) -> Path:
    """Where a text is.

    Raises:
        ValueError: it is one of a package that is not installed.
    """
    name = str(text)
    return in_package(name.removeprefix(PACKAGE), "retention.text") if name.startswith(PACKAGE) else text.expanduser()


def _documents(path: Path) -> Iterator[str]:
    files = sorted(file for file in path.glob("*") if file.suffix in (".txt", ".jsonl")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ValueError(f"retention.text={path} holds no text; give a .txt or .jsonl file, or a folder of such")
    for file in files:
        if file.suffix != ".jsonl":
            yield file.read_text(encoding="utf-8")
            continue
        for number, row in read_jsonl(file):
            text = next((row[name] for name in FIELDS if isinstance(row.get(name), str)), None)
            if text is None:
                raise ValueError(f"{file}:{number} has no text in {' or '.join(FIELDS)}; rename the row's field")
            yield text


def _block(ids: list[int]) -> Example:
    return Example(ids, [IGNORED, *ids[1:]])
