#!/usr/bin/env bash
# Evaluating during training, with a model that has dropout.
# Guess: how often a transformers Trainer evaluates (eval_steps) changes what is measured, not what is trained: with one
#   seed the losses of training are the same.
# Seen (transformers 5.23.0, torch 2.13.0): each evaluation moves torch's global random stream, for the iterator of a
#   DataLoader draws a number from it, though there is no worker to be seeded by it. From the first evaluation on, other
#   activations are dropped and the losses are others. Without dropout they are the same to the last bit.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet transformers==5.23.0 accelerate==1.15.0
cd "$folder"
HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

torch.manual_seed(0)
rows = [{"input_ids": row, "labels": row} for row in torch.randint(0, 50, (32, 8))]


def losses(dropout, eval_steps):
    transformers.set_seed(0)
    rates = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=24, n_layer=2, n_head=4, n_positions=16, **rates))
    when = {"eval_strategy": "steps", "eval_steps": eval_steps} if eval_steps else {}
    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    arguments = TrainingArguments("out", max_steps=6, logging_steps=1, learning_rate=1e-3, seed=0, **when, **quiet)
    trainer = Trainer(model, arguments, train_dataset=rows[:24], eval_dataset=rows[24:])
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


print(f"transformers {transformers.__version__}, torch {torch.__version__.partition('+')[0]}")
found = {}
for dropout in (0.1, 0.0):
    for eval_steps in (None, None, 3, 2):
        found.setdefault(dropout, []).append(losses(dropout, eval_steps))
        print(f"dropout {dropout}, eval_steps {eval_steps}:", *(f"{loss:.5f}" for loss in found[dropout][-1]))
never, again, third, second = found[0.1]
assert never == again
assert never[:3] == third[:3] and never[3:] != third[3:], "the losses are the same: the behaviour has changed"
assert never[:2] == second[:2] and never[2:] != second[2:]
assert all(one == found[0.0][0] for one in found[0.0])

before = torch.get_rng_state()
list(torch.utils.data.DataLoader(rows[:2]))
moved = not torch.equal(before, torch.get_rng_state())
print("reading a DataLoader without shuffling or workers moves torch's random stream:", moved)
assert moved
PYTHON
