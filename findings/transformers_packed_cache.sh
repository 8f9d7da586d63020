#!/usr/bin/env bash
# Two examples in one row of a causal language model, with position_ids that start again at the second.
# Guess: transformers keeps the examples apart, as its masks do where position_ids start again. A cache, which is made
#   anew by the call and is empty, changes no logits; nor does an attention_mask of ones.
# Seen (transformers 5.23.0, torch 2.13.0): the examples are kept apart with use_cache=False and no attention_mask only.
#   By default (use_cache=True in the config), also in training mode, the second example attends to the first, and so
#   it does with a mask of ones. No error, no warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet transformers==5.23.0
"$folder/venv/bin/python" - 2>"$folder/said" <<'PYTHON'
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
model = LlamaForCausalLM(LlamaConfig(vocab_size=50, initializer_range=0.3, **sizes)).eval()
first, second = torch.randint(0, 50, (1, 7)), torch.randint(0, 50, (1, 5))
row = torch.cat([first, second], 1)
places = torch.cat([torch.arange(7), torch.arange(5)])[None]
ones = torch.ones_like(row)


def off(**settings):
    with torch.no_grad():
        alone = model(second).logits
        return (model(row, position_ids=places, **settings).logits[:, 7:] - alone).abs().max().item()


print(f"transformers {transformers.__version__}, torch {torch.__version__.partition('+')[0]}")
apart, default, masked = off(use_cache=False), off(), off(use_cache=False, attention_mask=ones)
training = model.train() and off()
print("largest difference between a logit of the second example in the row and alone:")
print(f"use_cache=False: {apart:.2g}; default, which is use_cache={model.config.use_cache}: {default:.2g}; "
      f"default in training mode: {training:.2g}; use_cache=False with an attention_mask of ones: {masked:.2g}")
assert apart < 1e-4
assert min(default, training, masked) > 1e-1, "the examples are kept apart: the behaviour has changed"
PYTHON
echo "warnings of packing, positions or the cache: $(grep -ciE 'pack|position|cache' "$folder/said" || true)"
! grep -iE 'pack|position|cache' "$folder/said"
