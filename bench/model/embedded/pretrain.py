"""The recipe of tiny_llama: `python -m bench.model.embedded.pretrain FOLDER` makes a checkpoint as the shipped one.

A 0.8 M parameter Llama (grouped-query attention, no adapted projection square) and a byte-level BPE tokenizer,
trained on the generated language; `--width 32` and `--width 64` make the narrower ones that share its depth and
tokenizer. The tokenizer covers every byte, so real text can be put through it too. Takes about 15 minutes on two CPU
cores, less where it is narrower. BPE dropout draws from the tokenizers library's own stream, which cannot be seeded:
the recipe makes a model of the same quality, not the same bits. The recipe, its eval loss and the checkpoint's
hash are written to recipe.json beside the weights.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bench.model.embedded.corpus import TASK_MARKERS, documents
from bench.model.embedded.fit import Schedule, command_line, fit, write_recipe

PAD, EOS = "<pad>", "</s>"
HELD_OUT_SEED = 1


@dataclass(frozen=True, kw_only=True)
class Recipe(Schedule):
    """Everything the checkpoint depends on besides this file and the versions of torch and transformers."""

    width: int = 128
    steps: int = 12_000
    batch_size: int = 24  # sequences a step
    sequence_tokens: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    vocab_size: int = 512
    tokenizer_documents: int = 20_000
    # Share of documents split at random below the word (Provilkov et al. 2020, arXiv:1910.13267), so that the
    # tokens of single letters are trained as well and text outside the language is not made of untrained tokens.
    bpe_dropout: float = 0.1
    bpe_dropout_share: float = 0.05
    precision: str = "fp32"  # or bf16: autocast, and weights of two bytes


def llama_config(recipe: Recipe) -> LlamaConfig:
    """Four layers; at width 128 heads of 4 x 40 and 2 for keys and values make every projection rectangular."""
    return LlamaConfig(
        vocab_size=recipe.vocab_size,
        hidden_size=recipe.width,
        intermediate_size=recipe.width * 5 // 2,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=recipe.width * 5 // 16,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )


def train_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits, as Llama's tokenizers split numbers.

    It has seen the markers of the task formats, so that they are short; the model has not.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\d| ?[^\s\d]+|\s"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = itertools.islice(documents(random.Random(f"{recipe.seed}/tokenizer")), recipe.tokenizer_documents)
    markers = [f"{marker}:" for marker in TASK_MARKERS if marker.isalpha()] * 1000
    bpe.train_from_iterator(itertools.chain(texts, markers), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, eos_token=EOS, padding_side="left")


def token_blocks(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, name: str, dropout_share: float
) -> Iterator[torch.Tensor]:
    """Endless (batch_size, sequence_tokens) blocks of documents packed one after another, each closed by EOS."""
    rng = random.Random(f"{recipe.seed}/{name}")
    plain, split = tokenizer.backend_tokenizer, Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    split.model.dropout = recipe.bpe_dropout
    buffer: list[int] = []
    block_tokens = recipe.batch_size * recipe.sequence_tokens
    for text in documents(rng):
        encoder = split if rng.random() < dropout_share else plain
        buffer += [*encoder.encode(text).ids, tokenizer.eos_token_id]
        if len(buffer) >= block_tokens:
            yield torch.tensor(buffer[:block_tokens]).view(recipe.batch_size, recipe.sequence_tokens)
            buffer = buffer[block_tokens:]


@torch.no_grad()
def eval_loss(model: LlamaForCausalLM, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> float:
    """Mean loss, nats a token, over 32 blocks of whole words that training has not drawn."""
    blocks = itertools.islice(token_blocks(recipe, tokenizer, f"held_out/{HELD_OUT_SEED}", 0.0), 32)
    losses = [model(input_ids=block, labels=block).loss.item() for block in blocks]
    return sum(losses) / len(losses)


def pretrain(recipe: Recipe, folder: Path) -> float:
    """Trains tokenizer and model and writes them to `folder`; returns the eval loss in nats a token."""
    torch.manual_seed(recipe.seed)
    tokenizer = train_tokenizer(recipe)
    model = LlamaForCausalLM(llama_config(recipe))
    blocks = token_blocks(recipe, tokenizer, "train", recipe.bpe_dropout_share)
    fit(model, recipe, ({"input_ids": block, "labels": block} for block in blocks), (0.9, 0.95), recipe.precision)
    if recipe.precision == "bf16":
        model.bfloat16()
    model.save_pretrained(folder)
    loss = eval_loss(model.float(), recipe, tokenizer)  # of the weights as they are stored
    tokenizer.save_pretrained(folder)
    write_recipe(folder, asdict(recipe), eval_loss=round(loss, 4))
    return loss


def main() -> None:
    """The command line."""
    parser = command_line(__doc__, Recipe)
    parser.add_argument("--width", type=int, default=Recipe.width, help="a multiple of 32")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default=Recipe.precision)
    args = parser.parse_args()
    loss = pretrain(Recipe(seed=args.seed, width=args.width, steps=args.steps, precision=args.precision), args.folder)
    print(f"eval loss {loss:.4f} nats a token -> {args.folder}")


if __name__ == "__main__":
    main()
