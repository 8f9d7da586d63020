#!/usr/bin/env bash
# A few-shot task that is evaluated twice in one program, as to compare a model before and after training.
# Guess: lm_eval.evaluate, given one task object, shows the model the same prompts each time; lm_eval.simple_evaluate,
#   which has a fewshot_random_seed, does.
# Seen (lm_eval 0.4.13): evaluate has no seed and sets none. The sampler of a task is made without a seed, and draws on
#   from call to call: the second evaluation shows other examples than the first, and a second object of the same task
#   others again. With task.set_fewshot_seed before each call the prompts are the same. No warning is given.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet lm_eval==0.4.13 datasets==5.2.0
HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
from importlib.metadata import version

import datasets
import lm_eval
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask


class Silent(LM):
    """Answers nothing and keeps the prompts."""

    def generate_until(self, requests, **_):
        self.prompts = [request.args[0] for request in requests]
        return ["" for _ in requests]

    def loglikelihood(self, requests, **_):
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


def rows(**_):
    sums = [{"question": f"{number}+1=", "answer": str(number + 1)} for number in range(100)]
    return {"train": datasets.Dataset.from_list(sums[:90]), "test": datasets.Dataset.from_list(sums[90:])}


def task():
    splits = {"custom_dataset": rows, "training_split": "train", "test_split": "test", "num_fewshot": 3}
    texts = {"doc_to_text": "{{question}}", "doc_to_target": "{{answer}}", "target_delimiter": ""}
    matched = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
    output = {"output_type": "generate_until", "generation_kwargs": {"until": ["\n"]}, "metric_list": matched}
    return ConfigurableTask(config={"task": "sums", **splits, **texts, **output})


def prompts(evaluate):
    lm = Silent()
    evaluate(lm)
    return lm.prompts


def first_of(found):
    return found[0].replace("\n\n", " ")


print(f"lm_eval {version('lm_eval')}")
one = task()
first, second = (prompts(lambda lm: lm_eval.evaluate(lm, {"sums": one}, bootstrap_iters=0)) for _ in range(2))
other = prompts(lambda lm: lm_eval.evaluate(lm, {"sums": task()}, bootstrap_iters=0))
print("evaluate, first prompt of two calls and of another object:", *map(first_of, (first, second, other)), sep=" | ")
seeded = []
for _ in range(2):
    one.set_fewshot_seed(0)
    seeded.append(prompts(lambda lm: lm_eval.evaluate(lm, {"sums": one}, bootstrap_iters=0)))
print("with set_fewshot_seed before each:", *map(first_of, seeded), sep=" | ")
simple = [prompts(lambda lm: lm_eval.simple_evaluate(lm, tasks=[one], bootstrap_iters=0)) for _ in range(2)]
print("simple_evaluate, two calls:", *map(first_of, simple), sep=" | ")
assert len(first) == len(second) == 10
assert first != second and first != other, "the prompts are the same: the behaviour has changed"
assert seeded[0] == seeded[1] and simple[0] == simple[1]
PYTHON
