#!/usr/bin/env bash
# Multiple choice with a tokenizer that writes EOS after a text, as one that was made for classification does.
# Guess: HFLM(add_bos_token=True), which prepends the beginning-of-sequence token to inputs by its docstring, adds that
#   token and no other: the model reads "<s> prompt choice" and the tokens of the choice are scored.
# Seen (lm_eval 0.4.13, transformers 5.23.0): the argument turns on all special tokens of the tokenizer. The prompt ends
#   in EOS, which the model reads as context; and, as the number of its tokens, EOS among them, says where the choice
#   begins, a choice of one token is not scored at all: each gets the probability of a second EOS, and all are equal.
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

words = ["<s>", "</s>", "<unk>", "Paris", "is", "in", "France", "Japan", "Asia"]
core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, **names)
torch.manual_seed(0)
sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
model = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(vocab_size=len(words), initializer_range=0.5, **sizes)
).eval()
read = []
model.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].tolist()[0]))
lm = HFLM(pretrained=model, tokenizer=tokenizer, add_bos_token=True, batch_size=1)


def log_probability(context, token):
    ids = torch.tensor([[words.index(word) for word in context.split()]])
    with torch.no_grad():
        return model(ids).logits[0, -1].log_softmax(-1)[words.index(token)].item()


print(f"lm_eval {version('lm_eval')}, transformers {transformers.__version__}")
encoded = tokenizer.decode(lm.tok_encode("Paris is in"))
print("tok_encode:", encoded)
scores = []
for choice in ("France", "Japan", "Asia"):
    read.clear()
    ((score, _),) = lm.loglikelihood([Instance("loglikelihood", {}, ("Paris is in", f" {choice}"), 0)])
    (ids,) = read
    scores.append(score)
    meant = log_probability("<s> Paris is in", choice)
    print(f"{choice}: the model reads {tokenizer.decode(ids)!r}; score {score:.4f}, with BOS alone {meant:.4f}")
    assert tokenizer.decode(ids) == "<s> Paris is in </s>", "the prompt has no EOS: the behaviour has changed"
second = log_probability("<s> Paris is in </s>", "</s>")
print(f"EOS after '<s> Paris is in </s>': {second:.4f}")
assert encoded == "<s> Paris is in </s>"
assert all(abs(score - second) < 1e-4 for score in scores), "the choice is scored: the behaviour has changed"
PYTHON
