import random
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.score import Scoring, score

CHECKPOINT = Path(__file__).parents[1] / "bench" / "embedded" / "tiny_llama"


@pytest.fixture(scope="module")
def loaded():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(CHECKPOINT), AutoTokenizer.from_pretrained(
        CHECKPOINT, padding_side="left"
    )


def scored(loaded, compose_run, task, limit=8, batch_size=8):
    model, tokenizer = loaded
    prepared = compose_run(f"task={task}").task.prepare(tokenizer, 0, "test")
    return score(model, tokenizer, prepared.evaluations, Scoring("test", limit, batch_size))


@pytest.mark.parametrize(
    ("task", "metrics"),
    [
        ("gsm_tiny", {"gsm_tiny": {"exact_match,strict-match"}}),
        ("commonsense_tiny", {"commonsense_tiny": {"acc"}}),
        ("glue_tiny", {"acceptability_tiny": {"mcc"}, "paraphrase_tiny": {"acc", "f1"}, "entailment_tiny": {"acc"}}),
    ],
)
def test_every_task_gives_its_metrics_with_a_standard_error_and_every_item(loaded, compose_run, task, metrics):
    scores, outcomes = scored(loaded, compose_run, task)
    assert {t: {s.metric for s in scores if s.task == t} for t in metrics} == metrics
    assert all(s.num_examples == 8 and s.stderr is not None for s in scores)
    assert len(outcomes) == 8 * len(metrics)
    assert len({(o.task, o.doc_hash) for o in outcomes}) == len(outcomes)


def test_accuracy_is_the_mean_of_the_outcomes(loaded, compose_run):
    scores, outcomes = scored(loaded, compose_run, "commonsense_tiny", limit=40)
    assert scores[0].value == pytest.approx(np.mean([outcome.metrics["acc"] for outcome in outcomes]))


def test_the_best_choice_is_the_one_of_highest_likelihood(loaded, compose_run):
    model, tokenizer = loaded
    _, outcomes = scored(loaded, compose_run, "commonsense_tiny", limit=5)
    prepared = compose_run("task=commonsense_tiny").task.prepare(tokenizer, 0, "test")
    docs = prepared.evaluations["commonsense_tiny"].eval_docs
    for outcome in outcomes:
        doc = docs[outcome.doc_id]
        likelihoods = []
        for choice in doc["choices"]:
            prompt = tokenizer(f"Question: {doc['question']}\nAnswer:", return_tensors="pt").input_ids
            answer = tokenizer(f" {choice}", return_tensors="pt").input_ids
            with torch.no_grad():
                logits = model(torch.cat([prompt, answer], dim=1)).logits.log_softmax(-1)
            steps = logits[0, prompt.shape[1] - 1 : -1]
            likelihoods.append(steps.gather(1, answer[0, :, None]).sum().item())
        assert outcome.metrics["acc"] == float(np.argmax(likelihoods) == doc["label"])


def test_scoring_leaves_random_streams_mode_and_cache_setting_alone(loaded, compose_run):
    model, _ = loaded
    model.train()
    model.config.use_cache = False
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    scored(loaded, compose_run, "gsm_tiny", limit=4)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert model.training
    assert model.config.use_cache is False


def test_generation_is_greedy_whatever_the_models_own_generation_settings_say(loaded, compose_run):
    model, _ = loaded
    _, plain = scored(loaded, compose_run, "gsm_tiny")
    model.generation_config.update(do_sample=True, temperature=5.0, top_k=50)
    try:
        responses = [[o.response for o in scored(loaded, compose_run, "gsm_tiny")[1]] for _ in range(2)]
    finally:
        model.generation_config.update(do_sample=False, temperature=None, top_k=None)
    assert responses == [[o.response for o in plain]] * 2


def test_the_batch_size_does_not_change_what_is_generated(loaded, compose_run):
    one, many = (scored(loaded, compose_run, "gsm_tiny", batch_size=size)[1] for size in (1, 8))
    assert [o.response for o in one] == [o.response for o in many]


@pytest.mark.parametrize(
    ("answer", "generated", "strict", "flexible"),
    [
        ("#### 1,234", " so\n#### 1234", 1.0, 1.0),
        ("#### -5", " down\n#### -5", 1.0, 1.0),
        ("#### 1,234", " so\n#### 1", 0.0, 0.0),
        ("#### 18", " it is 18 dollars", 0.0, 1.0),
        ("#### 0", " no number", 0.0, 0.0),
    ],
)
def test_gsm8k_reads_commas_and_minus_signs_of_gold_answers(answer, generated, strict, flexible):
    from bench.tasks.definition import load_definition

    rows = {"train": [{"question": "q", "answer": "#### 1"}], "test": [{"question": "q", "answer": answer}]}
    task = load_definition("gsm8k/gsm8k.yaml", rows, "test", 0)
    values = {}
    for filtered in task._filters:
        (instance,) = [task.construct_requests(rows["test"][0], "q", metadata=("gsm8k", 0, 1))]
        instance.resps = [generated]
        filtered.apply([instance])
        found = instance.filtered_resps[filtered.name]
        values[filtered.name] = task.process_results(rows["test"][0], [found])["exact_match"]
    assert values == {"strict-match": strict, "flexible-extract": flexible}
