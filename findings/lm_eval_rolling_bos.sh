#!/usr/bin/env bash
# Perplexity of a text with a tokenizer that writes BOS before it, as those of Llama and Gemma do.
# Guess: lm-eval's loglikelihood_rolling is, by its docstring, the log-probability of the string conditioned on BOS: the
#   model reads "<s> text" and the tokens of the text are scored.
# Seen (lm_eval 0.4.13, transformers 5.23.0): BOS is put before what the tokenizer gives, which begins with BOS. The
#   model reads "<s> <s> text": the sum has one more term, log P(BOS | BOS), and its others are conditioned on two BOS.
#   loglikelihood of the same text with an empty context reads one BOS. With add_bos_token=False the two agree.
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
from tokenizers import Tokenizer, models, pre_tokenizers, processors

words = ["<s>", "<unk>", "the", "cat", "sat", "down"]
core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
names = {"bos_token": "<s>", "eos_token": "<s>", "unk_token": "<unk>", "pad_token": "<s>"}
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, **names)
torch.manual_seed(0)
sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
model = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(vocab_size=len(words), initializer_range=0.5, **sizes)
).eval()
read = []
model.register_forward_pre_hook(lambda module, inputs: read.append(tokenizer.decode(inputs[0][0])))
text = "the cat sat down"


def log_probability(whole, num_context):
    ids = torch.tensor([words.index(word) for word in whole.split()])
    with torch.no_grad():
        logs = model(ids[None]).logits[0].log_softmax(-1)
    return sum(logs[place - 1, ids[place]].item() for place in range(num_context, len(ids)))


def rolling(**settings):
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, **settings)
    read.clear()
    (score,) = lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
    ((empty, _),) = lm.loglikelihood([Instance("loglikelihood", {}, ("", text), 0)])
    return score, empty, list(read)


print(f"lm_eval {version('lm_eval')}, transformers {transformers.__version__}")
score, empty, (of_rolling, of_empty) = rolling()
print(f"loglikelihood_rolling reads {of_rolling!r}: {score:.4f}")
print(f"loglikelihood of an empty context reads {of_empty!r}: {empty:.4f}")
bare, same, _ = rolling(add_bos_token=False)
print(f"with add_bos_token=False: {bare:.4f} and {same:.4f}")
once, twice = log_probability(f"<s> {text}", 1), log_probability(f"<s> <s> {text}", 1)
more = log_probability("<s> <s>", 1)
print(f"log P(text | BOS) {once:.4f}; log P(BOS text | BOS) {twice:.4f}; log P(BOS | BOS) {more:.4f}")
assert of_rolling.startswith("<s> <s> the"), "one BOS is read: the behaviour has changed"
assert abs(score - twice) < 1e-4 and abs(score - once) > 1e-2
assert of_empty.startswith("<s> the") and abs(empty - once) < 1e-4
assert abs(bare - once) < 1e-4 and abs(same - once) < 1e-4
PYTHON
