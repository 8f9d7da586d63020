"""The recipe of tiny_t5: `python -m bench.model.embedded.pretrain_t5 FOLDER` makes the shipped checkpoint.

A 0.2 M parameter T5 (Raffel et al. 2020, arXiv:1910.10683) with tiny_llama's tokenizer, a mask and a closing EOS. It is
trained by BART's text infilling (Lewis et al. 2020, arXiv:1910.13461, Section 2.2): one mask stands for each span that
the encoder does not see, and the decoder writes the whole text, so that copying is learnt. Takes about three minutes of
one CPU core. The recipe, its eval loss and the checkpoint's hash are written to recipe.json beside the weights.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from bench.model.embedded.corpus import documents
from bench.model.embedded.fit import Schedule, command_line, fit, write_recipe
from bench.model.embedded.pretrain import EOS, HELD_OUT_SEED, PAD
from bench.model.loss import IGNORED

TOKENIZER = Path(__file__).parent / "tiny_llama" / "tokenizer.json"
MASK = "<mask>"
MAX_TOKENS = 512  # T5's own; positions are relative
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Recipe(Schedule):
    """Everything the checkpoint depends on besides this file and the versions of torch and transformers."""

    width: int = 64
    layers: int = 2  # of the encoder, and of the decoder
    steps: int = 1_600
    warmup_steps: int = 100
    batch_size: int = 16  # examples a step, of about one length
    sorted_batches: int = 16  # whose examples are drawn together and sorted by length
    max_documents: int = 2  # of an example; one or more
    noise_density: float = 0.3  # share of tokens in spans
    span_tokens: float = 3.0  # of a span, on average
    learning_rate: float = 3e-3
    weight_decay: float = 0.01


def t5_config(recipe: Recipe, vocab_size: int) -> T5Config:
    """At width 64 four heads of 12 make every projection rectangular; there is no dropout."""
    special: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    return T5Config(
        vocab_size=vocab_size,
        d_model=recipe.width,
        d_kv=recipe.width * 3 // 16,
        d_ff=recipe.width * 5 // 2,
        num_layers=recipe.layers,
        num_heads=4,
        dropout_rate=0.0,
        **special,
    )


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """tiny_llama's with a mask; texts end in EOS and are padded on the right."""
    bpe = Tokenizer.from_file(str(TOKENIZER))
    bpe.add_special_tokens([MASK])
    bpe.post_processor = TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A $B {EOS}", special_tokens=[(EOS, bpe.token_to_id(EOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD, eos_token=EOS, mask_token=MASK, model_max_length=MAX_TOKENS
    )


def masked(ids: Sequence[int], mask: int, recipe: Recipe, rng: random.Random) -> list[int]:
    """The tokens with one mask for each span that is left out; the first token stays.

    Args:
        ids: tokens of a text, three or more.
        mask: stands for a span.
        recipe: share of tokens in spans, and their mean length.
        rng: draws where spans begin and end.
    """
    num_noise = max(1, round(len(ids) * recipe.noise_density))
    num_spans = min(max(1, round(num_noise / recipe.span_tokens)), len(ids) - num_noise)
    noise, kept = (_parts(total, num_spans, rng) for total in (num_noise, len(ids) - num_noise))
    found: list[int] = []
    place = 0
    for num_kept, num_left_out in zip(kept, noise, strict=True):
        found += [*ids[place : place + num_kept], mask]
        place += num_kept + num_left_out
    return found


def _parts(total: int, number: int, rng: random.Random) -> list[int]:
    """So many positive lengths with this sum."""
    ends = sorted(rng.sample(range(1, total), number - 1))
    return [end - start for start, end in itertools.pairwise([0, *ends, total])]


def batches(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, name: str) -> Iterator[Batch]:
    """Endless batches of input_ids, attention_mask and labels (batch_size, tokens), padded on the right."""
    rng = random.Random(f"{recipe.seed}/{name}")
    drawn = documents(rng)

    def example() -> tuple[list[int], list[int]]:
        text = " ".join(itertools.islice(drawn, rng.randint(1, recipe.max_documents)))
        *ids, end = tokenizer(text).input_ids
        return [*masked(ids, tokenizer.mask_token_id, recipe, rng), end], [*ids, end]

    while True:
        pool = [example() for _ in range(recipe.batch_size * recipe.sorted_batches)]
        pool.sort(key=lambda pair: len(pair[0]))
        starts = list(range(0, len(pool), recipe.batch_size))
        rng.shuffle(starts)
        yield from (_batch(tokenizer, pool[start : start + recipe.batch_size]) for start in starts)


def _batch(tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[list[int], list[int]]]) -> Batch:
    inputs, labels = (
        tokenizer.pad({"input_ids": list(side)}, return_tensors="pt") for side in zip(*pairs, strict=True)
    )
    asked = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, IGNORED)
    return {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "labels": asked}


@torch.no_grad()
def eval_loss(model: T5ForConditionalGeneration, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> float:
    """Mean loss, nats a label token, over 16 batches that training has not drawn."""
    held_out = itertools.islice(batches(recipe, tokenizer, f"held_out/{HELD_OUT_SEED}"), 16)
    losses = [model(**batch).loss.item() for batch in held_out]
    return sum(losses) / len(losses)


def pretrain(recipe: Recipe, folder: Path) -> float:
    """Trains the model and writes it with its tokenizer to `folder`; returns the eval loss in nats a label token."""
    torch.manual_seed(recipe.seed)
    tokenizer = t5_tokenizer()
    model = T5ForConditionalGeneration(t5_config(recipe, len(tokenizer)))
    fit(model, recipe, batches(recipe, tokenizer, "train"), (0.9, 0.98))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    loss = eval_loss(model, recipe, tokenizer)
    write_recipe(folder, asdict(recipe), eval_loss=round(loss, 4))
    return loss


def main() -> None:
    """The command line."""
    args = command_line(__doc__, Recipe).parse_args()
    loss = pretrain(Recipe(seed=args.seed, steps=args.steps), args.folder)
    print(f"eval loss {loss:.4f} nats a token -> {args.folder}")


if __name__ == "__main__":
    main()
