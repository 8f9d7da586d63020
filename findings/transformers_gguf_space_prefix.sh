#!/usr/bin/env bash
# The tokenizer of a GGUF file with a sentencepiece vocabulary and tokenizer.ggml.add_space_prefix=false.
# Guess: no space is put before the text, as the file says: "a" is the token "a".
# Seen (transformers 5.23.0, gguf 0.19.0): the key is read and not used. "a" is "▁a", as with add_space_prefix=true. No
#   error, no warning.
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

TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁a", "▁", "a"]
KIND = gguf.TokenType


def read(add_space_prefix):
    writer = gguf.GGUFWriter("model.gguf", "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([-float(number) for number in range(len(TOKENS))])
    writer.add_token_types([KIND.UNKNOWN] + [KIND.CONTROL] * 2 + [KIND.BYTE] * 256 + [KIND.NORMAL] * 3)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(add_space_prefix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return transformers.AutoTokenizer.from_pretrained(".", gguf_file="model.gguf")


print(f"transformers {transformers.__version__}, gguf {version('gguf')}")
for add_space_prefix in (True, False):
    tokens = read(add_space_prefix).tokenize("a")
    print(f"add_space_prefix {add_space_prefix}: 'a' is {tokens}")
    assert tokens == ["▁a"], "the key is used: the behaviour has changed"
PYTHON
echo "lines on stderr that name a space or a prefix: $(grep -ciE 'space|prefix' said || true)"
! grep -iE 'space|prefix' said
