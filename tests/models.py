"""A model and data for tests, small enough to be made anew in each."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def tiny_llama():
    """A random Llama of two layers with grouped-query attention; no projection is square; always the same."""
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config)


def random_batch(rows, tokens, seed=0):
    """A batch of random tokens, the first two of each row a prompt that the loss leaves out."""
    ids = torch.randint(0, 50, (rows, tokens), generator=torch.Generator().manual_seed(seed))
    labels = ids.clone()
    labels[:, :2] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
