#!/usr/bin/env bash
# LoRA on the dense feed-forward layer of a mixture-of-experts model, named in full.
# Guess: LoraConfig(target_modules=[full names of linear layers]) adapts those layers and nothing else, or raises.
# Seen (transformers 5.23.0, peft 0.21.2): in a Qwen3-MoE model whose first layer is dense (mlp_only_layers=[0]) the names
#   that end in gate_proj, up_proj and down_proj are taken for those of experts: the dense layer, which was asked for,
#   gets no adapter, and the stacked experts of the other layer, which were not, do. No error; the warnings are of a
#   rank_pattern and an alpha_pattern, which nobody has written.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet transformers==5.23.0 peft==0.21.2
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import warnings

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
experts = {"num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
model = Qwen3MoeForCausalLM(Qwen3MoeConfig(vocab_size=50, mlp_only_layers=[0], **sizes, **experts))
asked = sorted(
    name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and name != "lm_head"
)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=asked))
parts = {name.partition(".lora_A")[0] for name, _ in adapted.named_parameters() if ".lora_A" in name}
got = sorted(name.removeprefix("base_model.model.").replace(".base_layer", "") for name in parts)
left, more = sorted(set(asked) - set(got)), sorted(set(got) - set(asked))
said = [str(one.message) for one in caught if "target" in str(one.message)]
named = [text for text in said if any(name in text for name in left)]
print(f"transformers {transformers.__version__}, peft {peft.__version__}")
print("asked for, no adapter:", ", ".join(left))
print("not asked for, adapter:", ", ".join(more))
print("warnings of targets:", said)
assert left == [f"model.layers.0.mlp.{part}_proj" for part in ("down", "gate", "up")], "the behaviour has changed"
assert more and all(name.startswith("model.layers.1.mlp.experts") for name in more)
assert not named
PYTHON
