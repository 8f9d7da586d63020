#!/usr/bin/env bash
# LoRA on the dt_proj layers of a Mamba model.
# Guess: PEFT, which refuses out_proj and conv1d of Mamba by name, adapts dt_proj like any other linear layer; with
#   init_lora_weights="pissa" the adapted model computes what the pretrained one does.
# Seen (transformers 5.23.0, peft 0.21.2): the model reads dt_proj.weight and never calls the layer. Its adapter gets no
#   gradient at all, so it trains nothing; PiSSA, which takes the leading singular directions out of the weight, changes
#   the logits before the first step; and merging the adapter changes them again. No warning is given.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet transformers==5.23.0 peft==0.21.2
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import MambaConfig, MambaForCausalLM


def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "state_size": 8, "num_hidden_layers": 2, "time_step_rank": 8}
    return MambaForCausalLM(MambaConfig(vocab_size=50, initializer_range=0.3, **sizes)).eval()


def change(before, after):
    return (before - after).abs().max().item()


print(f"transformers {transformers.__version__}, peft {peft.__version__}")
tokens = torch.arange(10)[None]
pretrained = model()(tokens).logits.detach()
found = {}
for layer in ("x_proj", "dt_proj"):
    adapted = get_peft_model(model(), LoraConfig(r=2, target_modules=[layer], init_lora_weights="pissa")).eval()
    logits = adapted(tokens).logits
    start = change(pretrained, logits)
    (logits.sum() + sum(p.sum() * 0 for p in adapted.parameters() if p.requires_grad)).backward()
    factors = [p for p in adapted.parameters() if p.requires_grad]
    gradient = sum(p.grad.norm().item() for p in factors)
    merged = change(logits.detach(), adapted.merge_and_unload()(tokens).logits.detach())
    found[layer] = start, gradient, merged
    print(f"{layer}: PiSSA changes a logit by {start:.2g}; norm of the factors' gradients {gradient:.2g}; "
          f"merging changes a logit by {merged:.2g}")
start, gradient, merged = found["x_proj"]
assert start < 1e-4 and gradient > 0 and merged < 1e-4, "x_proj is adapted no longer"
start, gradient, merged = found["dt_proj"]
assert start > 1e-2 and gradient == 0 and merged > 1e-2, "dt_proj is adapted: the behaviour has changed"
PYTHON
