#!/usr/bin/env bash
# Reading a GGUF file of a Llama whose positions are scaled, or whose attention has biases.
# Guess: what llama.cpp needs to compute the model (rope.scaling.* in the metadata, the tensor rope_freqs.weight, which
#   holds the factors of Llama 3.1, the biases of attention) reaches the model, or transformers says that it does not.
# Seen (transformers 5.23.0, gguf 0.19.0, torch 2.13.0): a plain file is read to the last digit. Of the others the model
#   has rope_type "default" and no biases, and its logits are off by several units. Nothing is said: no error, no
#   warning, and no name among the unexpected keys of output_loading_info.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0
cd "$folder"
"$folder/venv/bin/python" - 2>said <<'PYTHON'
from importlib.metadata import version

import gguf
import torch
import transformers
from transformers import AutoModelForCausalLM, GgufConfig, LlamaConfig, LlamaForCausalLM

TOKENS, HEADS, WIDTH = [f"t{number}" for number in range(50)], 4, 16
SIZES = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": HEADS}
SIZES |= {"vocab_size": len(TOKENS), "head_dim": WIDTH, "max_position_embeddings": 64, "rms_norm_eps": 1e-6}


def write(model, add, tensors):
    writer = gguf.GGUFWriter("model.gguf", "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e4)
    writer.add_rope_dimension_count(WIDTH)
    writer.add_key_length(WIDTH)
    writer.add_value_length(WIDTH)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    add(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
    for name, tensor in model.state_dict().items():
        layer, _, kind = name.rpartition(".")
        if layer.endswith(("q_proj", "k_proj")):  # llama.cpp pairs neighbouring dimensions of a head
            tensor = tensor.unflatten(0, (HEADS, 2, WIDTH // 2)).transpose(1, 2).flatten(0, 2)
        writer.add_tensor(f"{names.get_name(layer)}.{kind}", tensor.contiguous().numpy())
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def off(config, add=lambda writer: None, factors=False):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, initializer_range=0.3, **config)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(parameter)
    plain = 1e4 ** -(torch.arange(0, WIDTH, 2) / WIDTH)
    write(model, add, {"rope_freqs.weight": plain / model.model.rotary_emb.inv_freq} if factors else {})
    settings = {"gguf_file": "model.gguf", "quantization_config": GgufConfig(dequantize=True), "dtype": torch.float32}
    read, report = AutoModelForCausalLM.from_pretrained(".", **settings, output_loading_info=True)
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        return (read.eval()(tokens).logits - model(tokens).logits).abs().max().item(), read.config, report


def linear(writer):
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(4.0)


llama3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
cases = {
    "plain": off({}),
    "rope.scaling.type linear, rope.scaling.factor 4": off(
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}, linear
    ),
    "rope_freqs.weight": off(
        {"rope_parameters": llama3 | {"original_max_position_embeddings": 16}}, factors=True
    ),
    "biases of attention": off({"attention_bias": True}),
}
torch_version = torch.__version__.partition("+")[0]
print(f"transformers {transformers.__version__}, gguf {version('gguf')}, torch {torch_version}")
for case, (difference, config, report) in cases.items():
    print(f"{case}: a logit is off by {difference:.2g}; rope_type {config.rope_parameters['rope_type']}, "
          f"attention_bias {config.attention_bias}, unexpected keys {sorted(report['unexpected_keys'])}")
plain, *others = cases.values()
assert plain[0] < 1e-4
for difference, config, report in others:
    assert difference > 1e-1, "the file is read in full: the behaviour has changed"
    assert config.rope_parameters["rope_type"] == "default" and not config.attention_bias
    assert not report["unexpected_keys"]
PYTHON
echo "lines on stderr that name rope, scaling or a bias: $(grep -ciE 'rope|scaling|bias' said || true)"
! grep -iE 'rope|scaling|bias' said
