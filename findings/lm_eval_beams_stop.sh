#!/usr/bin/env bash
# Generation by a beam search (num_beams in a task's generation_kwargs) of several requests in a batch, with a stop string.
# Guess: each request's answer ends at its own stop string or at max_gen_toks, as with greedy decoding: the same in a batch as
#   alone.
# Seen (lm_eval 0.4.13, transformers 5.23.0): the criterion that watches for stop strings has a row for each request, and is given
#   a row for each beam, the beams of a request one after another. It looks at the first rows only, and when these have met the
#   string the whole batch ends: an answer that alone takes all its tokens is cut after three, because another request's
#   beams have stopped. Greedy answers are the same in a batch as alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet \
  lm_eval==0.4.13 transformers==5.23.0 accelerate==1.15.0 peft==0.21.2 datasets==5.2.0
HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
from importlib.metadata import version

import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, models, pre_tokenizers

words = ["<s>", "</s>", "<unk>", ".", "one", "two", "three", "four", "five"]
core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, **names)
torch.manual_seed(0)
sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
model = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(vocab_size=len(words), initializer_range=0.6, **sizes)
).eval()
prompts = ["five one", "four four"]


def answers(asked, beams):
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=len(asked))
    settings = {"until": ["."], "max_gen_toks": 12, "do_sample": False, "num_beams": beams}
    return lm.generate_until([Instance("generate_until", {}, (prompt, settings), 0) for prompt in asked])


print(f"lm_eval {version('lm_eval')}, transformers {transformers.__version__}")
same = []
for beams in (1, 2):
    together = answers(prompts, beams)
    alone = [answers([prompt], beams)[0] for prompt in prompts]
    for prompt, *both in zip(prompts, together, alone):
        print(f"num_beams={beams}, {prompt!r}: in a batch of two {both[0]!r}, alone {both[1]!r}")
    same.append(together == alone)
assert same == [True, False], "the behaviour has changed"
PYTHON
