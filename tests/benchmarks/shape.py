"""The models that are timed: shapes of Llama with random weights, and random tokens for them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Shape:
    """A Llama with tied embeddings, float32, and the batches it sees: rows of `num_tokens` tokens, all learned."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    num_tokens: int = 256
    batch_size: int = 8

    def model(self) -> PreTrainedModel:
        """The model, the same weights at every call."""
        from transformers import LlamaConfig, LlamaForCausalLM

        sizes = {key: value for key, value in asdict(self).items() if key not in ("num_tokens", "batch_size")}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True))

    def num_parameters(self) -> int:
        """Of the model, a tied weight counted once."""
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in self.model().parameters())

    def batches(self, num_samples: int) -> list[dict[str, Tensor]]:
        """Random tokens, the same at every call."""
        return random_batches(self.vocab_size, num_samples, self.num_tokens, self.batch_size)


# 98.6 M parameters: the largest whose exact SVDs take half a minute on one core.
LLAMA_98M = Shape(1024, 2816, 8, 16, 4, 64, 8192)
# What a contender runs once before it is timed.
LLAMA_TINY = Shape(64, 176, 2, 4, 2, 16, 256, num_tokens=32, batch_size=4)
# 20.9 M parameters and the vocabulary of tiny_llama, whose tokenizer it takes.
LLAMA_21M = Shape(512, 1408, 7, 8, 4, 64, 512)


def random_batches(vocab_size: int, num_samples: int, num_tokens: int, batch_size: int) -> list[dict[str, Tensor]]:
    """Rows of random tokens, `batch_size` of them a batch, the same at every call."""
    ids = torch.randint(vocab_size, (num_samples, num_tokens), generator=torch.Generator().manual_seed(0))
    return [
        {"input_ids": rows, "attention_mask": torch.ones_like(rows), "labels": rows} for rows in ids.split(batch_size)
    ]


def target_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """The layers to adapt, by name, as the suite finds them."""
    from bench.model import layers

    return layers.target_layers(model, TARGET_MODULES)
