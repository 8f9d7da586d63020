"""The models that are timed: shapes of Llama with random weights, and random tokens for them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedModel

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

    def config(self, **settings: Any) -> LlamaConfig:
        """The model's configuration; `settings` are further fields of it."""
        from transformers import LlamaConfig

        sizes = {key: value for key, value in asdict(self).items() if key not in ("num_tokens", "batch_size")}
        return LlamaConfig(**sizes, tie_word_embeddings=True, **settings)

    def model(self) -> PreTrainedModel:
        """The model, the same weights at every call."""
        from transformers import LlamaForCausalLM

        with torch.random.fork_rng():
            torch.manual_seed(0)
            return LlamaForCausalLM(self.config())

    def num_parameters(self) -> int:
        """Of the model, a tied weight counted once."""
        from transformers import LlamaForCausalLM

        with torch.device("meta"):
            return sum(parameter.numel() for parameter in LlamaForCausalLM(self.config()).parameters())

    def batches(self, num_samples: int) -> list[dict[str, Tensor]]:
        """Random tokens, the same at every call."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(self.vocab_size, (num_samples, self.num_tokens), generator=generator)
        return [
            {"input_ids": rows, "attention_mask": torch.ones_like(rows), "labels": rows}
            for rows in ids.split(self.batch_size)
        ]


# 98.6 M parameters: the largest whose exact SVDs take half a minute on one core.
LLAMA_98M = Shape(1024, 2816, 8, 16, 4, 64, 8192)
# What a contender runs once before it is timed, and what the benchmarks themselves are tried on.
LLAMA_TINY = Shape(64, 176, 2, 4, 2, 16, 256, num_tokens=32, batch_size=4)
# 20.9 M parameters and the vocabulary of tiny_llama, whose tokenizer it takes.
LLAMA_21M = Shape(512, 1408, 7, 8, 4, 64, 512)


def target_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """The layers to adapt, by name, as the suite finds them."""
    from bench.model import layers

    return layers.target_layers(model, TARGET_MODULES)
