import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.init import stage
from bench.methods.base import PLAIN, Factors, Rank
from bench.model import adapter
from bench.model.embedded.items import splits
from bench.model.layers import target_layers
from bench.model.limits import NO_LIMIT, max_tokens
from bench.score import check, check_merged, rows, score
from bench.tasks.definition import InMemoryTask, load_definition, read_definition
from bench.tasks.examples import Classification
from built_methods import built
from models import PAD, PLAIN_WORDS, scoring, tiny_bart, tiny_bert, tiny_llama, tiny_t5, whole, word_tokenizer

CHECKPOINT = Path(__file__).parents[1] / "bench" / "model" / "embedded" / "tiny_llama"


@pytest.fixture(scope="module")
def loaded():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT, padding_side="left")
    return whole(AutoModelForCausalLM.from_pretrained(CHECKPOINT), tokenizer=tokenizer)


def embedded(name):
    return load_definition(name, f"{name}.yaml", {"test": splits(name)["test"]}, "test")


def scored(loaded, *names, **changed):
    return score(loaded, {name: embedded(name) for name in names}, scoring(**changed))


def sentences(number=12, words=(2, 9), seed=0):
    """Rows of CoLA's form in the words of the tests' own tokenizer, seven of ten acceptable."""
    draw = random.Random(seed)
    texts = (" ".join(draw.choices(PLAIN_WORDS, k=draw.randint(*words))) for _ in range(number))
    return [{"sentence": text, "label": int(index % 10 < 7)} for index, text in enumerate(texts)]


def cola(rows=None, classification=None):
    """CoLA, scored by accuracy, because the bootstrap of its own metric takes a second."""
    config = read_definition("glue/cola/default.yaml") | {"test_split": "test", "metric_list": [{"metric": "acc"}]}
    config |= {"training_split": None, "validation_split": None}
    return {"cola": InMemoryTask(config, {"test": rows or sentences()}, classification)}


def generation(rows=None, **changed):
    """Tasks that let a model write; by default up to six tokens."""
    config = read_definition("gsm_tiny.yaml") | {
        "task": "write",
        "doc_to_text": "{{sentence}}",
        "doc_to_target": "{{label}}",
        "training_split": None,
        "filter_list": None,
        "generation_kwargs": {"until": ["."], "do_sample": False, "max_gen_toks": 6},
    }
    return {"write": InMemoryTask(config | changed, {"test": rows or sentences()}, None)}


def responses(found):
    return [outcome.response for outcome in found.outcomes]


# What is returned.


@pytest.mark.parametrize(
    ("names", "metrics"),
    [
        (["gsm_tiny"], {"gsm_tiny": {"exact_match,strict-match"}}),
        (["commonsense_tiny"], {"commonsense_tiny": {"acc"}}),
        (
            ["acceptability_tiny", "paraphrase_tiny", "entailment_tiny"],
            {"acceptability_tiny": {"mcc"}, "paraphrase_tiny": {"acc", "f1"}, "entailment_tiny": {"acc"}},
        ),
    ],
)
def test_every_task_gives_its_metrics_with_a_standard_error_and_every_item(loaded, names, metrics):
    found = scored(loaded, *names)
    assert {t: {s.metric for s in found.scores if s.task == t} for t in metrics} == metrics
    assert all(s.num_examples == 8 and s.stderr is not None and s.higher_is_better for s in found.scores)
    assert len(found.outcomes) == 8 * len(metrics)
    assert len({(o.task, o.doc_hash) for o in found.outcomes}) == len(found.outcomes)
    assert found.facts.truncated == dict.fromkeys(names, 0)


def test_the_best_choice_is_the_one_of_highest_likelihood_and_accuracy_the_mean_over_items(loaded):
    model, tokenizer = loaded.model, loaded.tokenizer
    found = scored(loaded, "commonsense_tiny", limit=5)
    docs = embedded("commonsense_tiny").eval_docs
    for outcome in found.outcomes:
        doc = docs[outcome.doc_id]
        likelihoods = []
        for choice in doc["choices"]:
            prompt = tokenizer(f"Question: {doc['question']}\nAnswer:", return_tensors="pt").input_ids
            answer = tokenizer(f" {choice}", return_tensors="pt").input_ids
            with torch.no_grad():
                logits = model(torch.cat([prompt, answer], dim=1)).logits.log_softmax(-1)
            steps = logits[0, prompt.shape[1] - 1 : -1]
            likelihoods.append(steps.gather(1, answer[0, :, None]).sum().item())
        assert outcome.choice == np.argmax(likelihoods)
        assert outcome.metrics["acc"] == float(outcome.choice == doc["label"])
    assert found.scores[0].value == pytest.approx(np.mean([outcome.metrics["acc"] for outcome in found.outcomes]))


def test_a_lower_perplexity_is_better():
    config = {"task": "text", "output_type": "loglikelihood_rolling", "test_split": "test", "doc_to_text": ""}
    config |= {"doc_to_target": "{{sentence}}", "metric_list": [{"metric": "word_perplexity"}]}
    tasks = {"text": InMemoryTask(config, {"test": sentences()}, None)}
    (found,) = score(whole(tiny_llama()), tasks, scoring()).scores
    assert (found.metric, found.higher_is_better, found.majority) == ("word_perplexity", False, None)


def baselines(loaded, name, limit):
    return {found.metric: found.majority for found in scored(loaded, name, limit=limit).scores}


def test_the_majority_baseline_is_that_of_the_items_scored(loaded):
    labels = [row["label"] for row in splits("entailment_tiny")["test"]]
    shares = {limit: max(sum(labels[:limit]) / limit, 1 - sum(labels[:limit]) / limit) for limit in (7, 30)}
    assert shares[7] != shares[30]
    for limit, share in shares.items():
        assert baselines(loaded, "entailment_tiny", limit) == {"acc": pytest.approx(share)}


@pytest.mark.parametrize("labels", [[1, 1, 1, 0], [0, 0, 1, 0], [0, 1], [1, 1]])
def test_the_baseline_is_what_lm_evals_metrics_make_of_one_answer_to_everything(labels):
    from bench.score.rows import majority

    rows = [{"sentence1": "a", "sentence2": "a", "label": label} for label in labels]
    task = load_definition("mrpc", "glue/mrpc/default.yaml", {"test": rows}, "test")
    most = int(sum(labels) > len(labels) / 2)
    f1 = task.aggregation()["f1"]([(label, most) for label in labels])
    assert majority(task, "f1", labels) == pytest.approx(f1)
    assert majority(task, "acc", labels) == np.mean([label == most for label in labels])


@pytest.mark.parametrize(
    ("name", "baseline"), [("acceptability_tiny", 0.0), ("commonsense_tiny", None), ("gsm_tiny", None)]
)
def test_one_answer_to_everything_has_no_correlation_and_there_is_none_without_fixed_classes(loaded, name, baseline):
    assert set(baselines(loaded, name, 30).values()) == {baseline}


# What must not move it, and what it must not move.


def test_scoring_leaves_random_streams_mode_and_configuration_alone(loaded):
    model = loaded.model
    model.train()
    model.config.use_cache = False
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    config, generation_config = model.config.to_dict(), model.generation_config
    scored(loaded, "gsm_tiny", limit=4)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert model.training
    assert model.config.to_dict() == config
    assert model.generation_config is generation_config


UNWANTED = [
    {"do_sample": True, "temperature": 0.6},
    {"do_sample": True, "temperature": 5.0, "top_k": 50},
    {"num_beams": 4, "no_repeat_ngram_size": 2, "early_stopping": True},
    {"repetition_penalty": 3.0},
]


@pytest.mark.parametrize("unwanted", UNWANTED)
@pytest.mark.parametrize("adapted", [False, True])
def test_generation_is_greedy_under_any_seed_whatever_the_models_own_generation_settings_say(unwanted, adapted):
    from transformers import GenerationConfig

    def generated(seed, **own):
        model = tiny_llama()
        model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0, **own)
        if adapted:
            model, _ = with_adapters(model, built("hu"))
        torch.manual_seed(seed)
        return responses(score(whole(model), generation(), scoring()))

    assert generated(0, **unwanted) == generated(1, **unwanted) == generated(0)


def test_the_batch_size_does_not_change_what_is_generated(loaded):
    one, many = (scored(loaded, "gsm_tiny", batch_size=size) for size in (1, 8))
    assert responses(one) == responses(many)


def test_scoring_halves_the_batch_until_memory_suffices_and_says_what_it_used(monkeypatch):
    model = tiny_llama()
    expected = score(whole(model), cola(), scoring()).scores
    forward = model.forward

    def limited(input_ids, *rest, **given):
        if len(input_ids) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")
        return forward(input_ids, *rest, **given)

    monkeypatch.setattr(model, "forward", limited)
    with pytest.warns(UserWarning, match=r"score\.batch_size=") as warned:
        found = score(whole(model), cola(), scoring())
    assert [str(w.message).rpartition("=")[2] for w in warned if "batch_size" in str(w.message)] == ["4", "2"]
    assert found.facts.batch_size == 2
    assert found.scores == expected


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("something else")])
def test_other_errors_and_single_prompts_that_do_not_fit_are_raised(monkeypatch, error):
    model = tiny_llama()

    def failing(*_, **__):
        raise error

    monkeypatch.setattr(model, "forward", failing)
    with pytest.raises(type(error), match=str(error)):
        score(whole(model), cola(), scoring(batch_size=1))


# Sequence-to-sequence models.

SEQ2SEQ = pytest.mark.parametrize("build", [tiny_t5, tiny_bart])


@SEQ2SEQ
def test_a_choice_is_scored_by_the_decoder_without_end_of_sequence(build):
    model, tokenizer, rows = build().eval(), word_tokenizer("seq2seq"), sentences()
    found = score(whole(model, "seq2seq"), cola(rows), scoring(limit=None))
    assert len(set(responses(found))) == len(rows)
    for outcome, row in zip(found.outcomes, rows, strict=True):
        prompt = tokenizer(f"{row['sentence']}\nQuestion: Does this sentence make sense?\nAnswer:", return_tensors="pt")
        answers = tokenizer(["no", "yes"], add_special_tokens=False, return_tensors="pt").input_ids
        start = torch.tensor([[model.config.decoder_start_token_id]])
        with torch.no_grad():
            logits = model(**prompt, decoder_input_ids=start).logits[0, 0].log_softmax(-1)
        expected = logits[answers[:, 0]].tolist()
        assert [likelihood for likelihood, _ in eval(outcome.response)] == pytest.approx(expected, abs=1e-4)
        assert outcome.choice == np.argmax(expected)


@SEQ2SEQ
def test_generation_by_an_encoder_decoder_does_not_depend_on_its_batch(build):
    one, many = (
        score(whole(build(), "seq2seq"), generation(), scoring(limit=None, batch_size=size)) for size in (1, 12)
    )
    assert responses(one) == responses(many)
    assert len(set(responses(one))) > 1


@SEQ2SEQ
def test_an_encoder_decoder_generates_no_more_than_the_task_allows_after_a_long_prompt(build, monkeypatch):
    model, written = build(), []
    generate = model.generate

    def watched(**given):
        output = generate(**given)
        written.append(output.shape[1] - 1)  # without the token that the decoder starts from
        return output

    monkeypatch.setattr(model, "generate", watched)
    score(whole(model, "seq2seq"), generation(sentences(words=(40, 60))), scoring())
    assert written == [6]


@SEQ2SEQ
@pytest.mark.parametrize("until", ["§", "cat"])
def test_beams_that_a_task_asks_for_are_generates_own_whatever_ends_some_of_them(build, until):
    model, tokenizer, rows = build().eval(), word_tokenizer("seq2seq"), sentences()
    asked = {"until": [until], "do_sample": False, "num_beams": 4, "max_gen_toks": 6}
    found = responses(score(whole(model, "seq2seq"), generation(rows, generation_kwargs=asked), scoring(limit=None)))
    expected = []
    for row in rows:
        ids = tokenizer(row["sentence"], return_tensors="pt")
        written = model.generate(**ids, num_beams=4, do_sample=False, max_length=7, pad_token_id=PAD)
        expected.append(tokenizer.decode(written[0], skip_special_tokens=True).partition(until)[0])
    assert found == expected
    assert len(set(found)) > 1


# What is refused, and what is cut.


def test_every_kind_of_model_has_its_own_limit():
    from transformers import BartConfig, BertConfig, LlamaConfig, RobertaConfig, T5Config

    tokenizer = word_tokenizer(model_max_length=77)
    assert max_tokens(LlamaConfig(max_position_embeddings=4096), tokenizer) == 4096
    assert max_tokens(BertConfig(), tokenizer) == 512
    assert max_tokens(RobertaConfig(max_position_embeddings=514), tokenizer) == 512
    assert max_tokens(BartConfig(), tokenizer) == 1024
    assert max_tokens(T5Config(), tokenizer) == 77
    assert max_tokens(T5Config(), word_tokenizer(model_max_length=int(1e30))) == NO_LIMIT


def cut(build, kind, tasks):
    return score(whole(build(), kind), tasks, scoring()).facts.truncated


LONG = "a " * 70


@pytest.mark.parametrize(("build", "kind"), [(tiny_llama, "causal"), (tiny_t5, "seq2seq"), (tiny_bart, "seq2seq")])
def test_prompts_longer_than_the_model_are_cut_counted_and_named(build, kind):
    rows = [{"sentence": text, "label": 0} for text in ("a cat", LONG, LONG)]
    with pytest.warns(UserWarning, match="2 of 3 scored items of cola are longer than the 64 tokens"):
        assert cut(build, kind, cola(rows)) == {"cola": 2}


def test_a_prompt_that_just_fits_is_not_cut():
    # Ten tokens follow the sentence, and the answer is one more, which is predicted but not read.
    rows = [{"sentence": "a " * number, "label": 0} for number in (54, 55)]
    with pytest.warns(UserWarning, match="1 of 2 scored items"):
        assert cut(tiny_llama, "causal", cola(rows)) == {"cola": 1}


def test_what_a_model_may_generate_counts_as_length_where_prompt_and_answer_share_it():
    rows = [{"sentence": "a " * number, "label": 0} for number in (58, 59)]
    with pytest.warns(UserWarning, match="1 of 2 scored items of write"):
        assert cut(tiny_llama, "causal", generation(rows)) == {"write": 1}
    assert cut(tiny_t5, "seq2seq", generation(rows)) == {"write": 0}


def test_a_task_that_leaves_no_room_for_a_prompt_is_refused():
    tasks = generation(generation_kwargs={"until": ["."], "max_gen_toks": 64})
    with pytest.raises(ValueError, match="generates up to 64 tokens, which leaves no room for a prompt in the 64"):
        check(whole(tiny_llama()), tasks, scoring())


def test_targets_longer_than_may_be_generated_are_counted_before_training():
    rows = [{"sentence": text, "label": 0} for text in ("a cat", "a " * 6, "a " * 7, "the dog " * 9)]
    tasks = generation(rows, doc_to_target="{{sentence}}")
    with pytest.warns(UserWarning, match="2 of 4 scored targets of write have more tokens than the 6 that may be gen"):
        check(whole(tiny_t5(), "seq2seq"), tasks, scoring())
    with pytest.warns(UserWarning, match="1 of 3 scored targets of write"):
        check(whole(tiny_llama()), tasks, scoring(limit=3))


def test_code_of_a_model_runs_only_with_leave(monkeypatch):
    import os

    allowed = []
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)

    def process(doc, results):
        allowed.append(os.environ.get("HF_ALLOW_CODE_EVAL"))
        return {"exact_match": 0.0}

    def run(**changed):
        tasks = generation(unsafe_code=True, process_results=process)
        return score(whole(tiny_llama()), tasks, scoring(**changed))

    with pytest.raises(ValueError, match=r"write runs code .*: say score\.confirm_run_unsafe_code=true"):
        run()
    assert not allowed
    run(confirm_run_unsafe_code=True)
    assert set(allowed) == {"1"}
    assert "HF_ALLOW_CODE_EVAL" not in os.environ


# Precision.


@pytest.mark.parametrize(("build", "kind"), [(tiny_llama, "causal"), (tiny_t5, "seq2seq"), (tiny_bert, "encoder")])
def test_bf16_is_autocast_over_weights_that_stay_as_they_are_and_the_record_says_so(build, kind):
    model, seen = build(), []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _m, _a, output: seen.append(output.dtype))
    tasks = cola(classification=Classification(("sentence",), 2))
    exact, rough = (score(whole(model, kind), tasks, scoring(precision=each)) for each in ("fp32", "bf16"))
    assert (exact.facts.precision, rough.facts.precision) == ("fp32", "bf16")
    assert {torch.float32, torch.bfloat16} == set(seen)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    ours, theirs = ([v for text in responses(found) for v, _ in eval(text)] for found in (rough, exact))
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.05, abs=0.05)


def test_a_precision_that_is_not_to_be_had_is_refused(monkeypatch, compose_run):
    with pytest.raises(ValueError, match=r"vllm computes in the model's dtype: model\.dtype=bfloat16"):
        check(whole(tiny_llama()), cola(), scoring(precision="bf16", backend="vllm"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    with pytest.raises(ValueError, match=r"capability 8\.0, and Tesla T4 has 7\.5; take score\.precision=fp32"):
        check(whole(tiny_llama()), cola(), scoring(precision="bf16"))
    with pytest.raises(ValueError, match=r"capability 8\.0, and Tesla T4 has 7\.5; take train\.precision=fp32"):
        stage.check(compose_run("method=hu", "train.precision=bf16"))


# Merged weights.

RANK = Rank("r3", 3, 6)


def with_adapters(model, method, options=PLAIN, size=0.3):
    """Adapters that change what the model says, on every kind of projection."""
    layers = target_layers(model, None)
    wrapped, adapted = adapter.add(model, method, RANK, layers, options)
    generator = torch.Generator().manual_seed(7)
    for layer in adapted:
        parts = {name: parameter.shape for name, parameter in layer.parameters().items() if name in adapter.FACTORS}
        if parts:
            drawn = {name: size * torch.randn(shape, generator=generator) for name, shape in parts.items()}
            adapter.fill(layer, Factors(**drawn))
    return wrapped, adapted


METHODS = {
    "lora": (built("hu"), PLAIN),
    "dora": (built("hu"), replace(PLAIN, use_dora=True)),
    "lora_xs": (built("lora_xs"), PLAIN),
}


@pytest.mark.parametrize("name", METHODS)
def test_sound_merges_answer_as_the_adapters_did(name):
    model, _ = with_adapters(tiny_llama(), *METHODS[name])
    tasks = cola() | generation()
    found = score(whole(model), tasks, scoring())
    plain = score(whole(tiny_llama()), tasks, scoring())
    assert responses(found) != responses(plain)
    assert check_merged(whole(model), tasks, scoring(), found) == {"num_items": 8, "num_differing": 0}
    assert all(module.merged for module in model.modules() if hasattr(module, "merged_adapters"))


@pytest.mark.parametrize(("build", "kind"), [(tiny_t5, "seq2seq"), (tiny_bart, "seq2seq"), (tiny_bert, "encoder")])
def test_other_kinds_of_models_merge_soundly(build, kind):
    tasks = cola(classification=Classification(("sentence",), 2))
    model, _ = with_adapters(build(), built("hu"))
    found = score(whole(model, kind), tasks, scoring())
    assert check_merged(whole(model, kind), tasks, scoring(), found) == {"num_items": 4, "num_differing": 0}


@pytest.mark.parametrize("tasks", [cola, generation])
def test_a_merge_that_goes_wrong_is_found(tasks, monkeypatch):
    from peft.tuners.lora.layer import Linear

    model, _ = with_adapters(tiny_llama(), built("hu"))
    tasks = tasks()
    found = score(whole(model), tasks, scoring())
    right = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda self, name: -right(self, name))
    with pytest.warns(UserWarning, match="of 4 items are answered otherwise once the adapters are merged"):
        result = check_merged(whole(model), tasks, scoring(), found)
    assert result["num_items"] == 4
    assert 0 < result["num_differing"] <= 4


def test_a_regression_may_move_by_rounding_only():
    from bench.score.merged import _equal

    assert _equal({"pearson": (3.2, 1.001)}, {"pearson": (3.2, 1.002)})
    assert not _equal({"pearson": (3.2, 1.0)}, {"pearson": (3.2, 1.2)})
    assert not _equal({"mcc": (100, np.int64(100))}, {"mcc": (100, np.int64(101))})


def test_nothing_is_merged_where_there_is_no_adapter_or_no_wish():
    tasks = cola()
    full, _ = adapter.add(tiny_llama(), built("full_ft"), RANK, target_layers(tiny_llama(), None))
    found = score(whole(full), tasks, scoring())
    assert check_merged(whole(full), tasks, scoring(), found) is None
    adapted, _ = with_adapters(tiny_llama(), built("hu"))
    assert check_merged(whole(adapted), tasks, scoring(merged_samples=0), found) is None
    assert not any(module.merged for module in adapted.modules() if hasattr(module, "merged_adapters"))


# vLLM.


def test_vllm_that_is_not_installed_is_asked_for_and_serves_causal_models_only():
    with pytest.raises(ValueError, match=r"score\.backend=vllm needs vllm \(pip install vllm\) and a GPU"):
        check(whole(tiny_llama()), cola(), scoring(backend="vllm"))
    with pytest.raises(ValueError, match="serves causal models only, and this one is seq2seq"):
        check(whole(tiny_t5(), "seq2seq"), cola(), scoring(backend="vllm"))


@pytest.fixture
def vllm(monkeypatch):
    """In place of vLLM, lm-eval's class for transformers, which loads the folder that vLLM was given."""
    from lm_eval.models.huggingface import HFLM

    given = {}

    class StandIn(HFLM):
        def __init__(self, pretrained, max_model_len, seed, gpu_memory_utilization, **settings):
            folder = Path(pretrained)
            given.update(settings, max_model_len=max_model_len, folder=folder)
            given["files"] = sorted(path.name for path in folder.iterdir())
            given["generation_config"] = json.loads((folder / "generation_config.json").read_text())
            super().__init__(pretrained=pretrained, max_length=max_model_len, device="cpu", **settings)

    monkeypatch.setattr("bench.score.backends.vllm_class", lambda: StandIn)
    monkeypatch.setattr("bench.score.guard.vllm_class", lambda: StandIn)
    return given


@pytest.mark.parametrize("name", METHODS)
def test_vllm_scores_the_merged_weights_and_the_model_stays_as_it_was(vllm, name):
    model, _ = with_adapters(tiny_llama(), *METHODS[name])
    model.generation_config.update(do_sample=True, temperature=0.6)
    tasks = cola() | generation()
    expected = score(whole(model), tasks, scoring())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = score(whole(model), tasks, scoring(backend="vllm"))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)

    def answers(outcomes):
        return [(o.choice, o.metrics, o.response if o.task == "write" else None) for o in outcomes]

    assert answers(found.outcomes) == answers(expected.outcomes)
    likelihoods = [np.array(eval(o.response)) for f in (found, expected) for o in f.outcomes if o.task == "cola"]
    assert np.allclose(likelihoods[:8], likelihoods[8:], atol=1e-4)
    assert (vllm["dtype"], vllm["max_model_len"], vllm["batch_size"]) == ("float32", 64, 8)
    assert not any("adapter" in file for file in vllm["files"])
    assert "do_sample" not in vllm["generation_config"]
    assert not vllm["folder"].exists()
    assert check_merged(whole(model), tasks, scoring(backend="vllm"), found) is None


def test_items_of_a_dataset_with_clusters_say_which_they_are_in_and_others_say_nothing():
    row = {"question": "Where?", "choices": ["a", "b", "c", "d"], "label": 0, "fact": "home of the fox"}
    for field, named in (("fact", "home of the fox"), (None, None)):
        task = load_definition("commonsense_tiny", "commonsense_tiny.yaml", {"test": [row]}, "test")
        task.cluster = field
        sample = {
            "filter": "none", "doc_id": 0, "doc_hash": "h", "doc": row, "target": 0, "metrics": ["acc"], "acc": 1.0,
            "filtered_resps": [(-1.0, True), (-2.0, False)],
        }  # fmt: skip
        results = {"samples": {"t": [sample]}, "configs": {"t": {"output_type": "multiple_choice"}}}
        (outcome,) = rows.outcomes(results, {"t": task})
        assert outcome.cluster == named
        assert outcome.row().get("cluster", "none said") == (named or "none said")
