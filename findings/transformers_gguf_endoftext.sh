#!/usr/bin/env bash
# The tokenizer of a GGUF file with a byte-level vocabulary that has no <|endoftext|>, such as that of Llama 3.
# Guess: the tokenizer has the tokens of the file, and every id that it gives has a row in the model's embedding.
# Seen (transformers 5.23.0, gguf 0.19.0): <|endoftext|>, which GPT-2 has, is appended. Its id is the file's number of
#   tokens, one beyond the last row of the embedding: a text that holds it gives this id, and len(tokenizer) is larger
#   than config.vocab_size. A file that has the token keeps its number of tokens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet transformers==5.23.0 gguf==0.19.0
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
from importlib.metadata import version

import gguf
import transformers
from tokenizers import pre_tokenizers

NAME = "<|endoftext|>"


def read(special):
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ĠĠ", *special]
    num_plain = len(tokens) - len(special)
    writer = gguf.GGUFWriter("model.gguf", "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * num_plain + [gguf.TokenType.CONTROL] * len(special))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(num_plain)
    writer.add_eos_token_id(num_plain + 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    tokenizer = transformers.AutoTokenizer.from_pretrained(".", gguf_file="model.gguf")
    config = transformers.AutoConfig.from_pretrained(".", gguf_file="model.gguf")
    given = tokenizer(NAME, add_special_tokens=False)["input_ids"]
    print(f"file of {len(tokens)} tokens, the last ones {special}: config.vocab_size {config.vocab_size}, "
          f"len(tokenizer) {len(tokenizer)}, {NAME!r} gives {given}")
    return len(tokens), config.vocab_size, len(tokenizer), given


print(f"transformers {transformers.__version__}, gguf {version('gguf')}")
tokens, rows, number, given = read(["<|begin_of_text|>", "<|end_of_text|>"])
assert (rows, number, given) == (tokens, tokens + 1, [tokens]), "no token is appended: the behaviour has changed"
tokens, rows, number, given = read(["<|begin_of_text|>", NAME])
assert (rows, number, given) == (tokens, tokens, [tokens - 1])
PYTHON
