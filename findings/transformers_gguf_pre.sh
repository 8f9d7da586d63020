#!/usr/bin/env bash
# The tokenizer of a GGUF file whose tokenizer.ggml.pre transformers does not know, such as smollm.
# Guess: an error, as for a tokenizer.ggml.model that it does not know, or at least a warning.
# Seen (transformers 5.23.0, gguf 0.19.0): the text is split as GPT-2 splits it, without a word. SmolLM's digits stand
#   apart before GPT-2's split, so two spaces before a digit are one token of its vocabulary; here they are two.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet transformers==5.23.0 gguf==0.19.0
cd "$folder"
"$folder/venv/bin/python" - 2>said <<'PYTHON'
from importlib.metadata import version

import gguf
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

MERGES = [("Ġ", "Ġ"), ("1", "2")]
TOKENS = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, MERGES)]
TEXT = "a  12"


def read(model, pre):
    writer = gguf.GGUFWriter("model.gguf", "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(TOKENS) - 1))
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_eos_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return transformers.AutoTokenizer.from_pretrained(".", gguf_file="model.gguf").tokenize(TEXT)


def split(*steps):
    core = Tokenizer(models.BPE({token: number for number, token in enumerate(TOKENS)}, MERGES))
    core.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return core.encode(TEXT).tokens


print(f"transformers {transformers.__version__}, gguf {version('gguf')}")
smollm, gpt2 = split(pre_tokenizers.Digits(individual_digits=True)), split()
print(f"{TEXT!r} as SmolLM splits it: {smollm}; as GPT-2 does: {gpt2}")
found = {pre: read("gpt2", pre) for pre in ("smollm", "no-such-split")}
for pre, tokens in found.items():
    print(f"file with tokenizer.ggml.pre {pre}: {tokens}")
try:
    read("no-such-model", "gpt-2")
    refused = None
except ValueError as error:
    refused = str(error)
print("file with tokenizer.ggml.model no-such-model:", refused)
assert smollm != gpt2 and refused
assert all(tokens == gpt2 for tokens in found.values()), "the split is another: the behaviour has changed"
PYTHON
echo "lines on stderr that name the split: $(grep -ciE 'smollm|no-such-split|pre.?tokeni|split' said || true)"
! grep -iE 'smollm|no-such-split|pre.?tokeni|split' said
