import json
from pathlib import Path

import pytest
import torch

from bench.model import Model
from bench.tasks.data import carve_selection, load_rows, read_jsonl
from bench.tasks.definition import load_definition, prompt_and_target
from bench.tasks.examples import IGNORED, collate, encode

EMBEDDED = ("gsm_tiny", "commonsense_tiny", "glue_tiny")


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(Path(__file__).parents[1] / "bench" / "embedded" / "tiny_llama")


@pytest.fixture
def gsm8k_folder(tmp_path):
    (tmp_path / "gsm8k").mkdir()
    for split, number in (("train", 300), ("test", 3)):
        rows = [{"question": f"{split} {i}?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"} for i in range(number)]
        (tmp_path / "gsm8k" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.parametrize("task", EMBEDDED)
def test_a_training_example_is_what_scoring_asks_and_wants_byte_for_byte(compose_run, tokenizer, task):
    prepared = compose_run(f"task={task}").task.prepare(tokenizer, 0, "test")
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
    example = encode(tokenizer, "Question: 1 + 1?\nAnswer:", " 2")
    counted = [token for token, label in zip(example.input_ids, example.labels, strict=True) if label != IGNORED]
    assert tokenizer.decode(counted) == " 2" + tokenizer.eos_token
    assert tokenizer.decode(example.input_ids) == "Question: 1 + 1?\nAnswer: 2" + tokenizer.eos_token


def test_a_batch_is_padded_on_the_right_and_padding_is_neither_seen_nor_counted(tokenizer):
    batch = collate([encode(tokenizer, "a", " b"), encode(tokenizer, "a long prompt", " c")], pad_token_id=0)
    assert batch["attention_mask"][0].tolist() == sorted(batch["attention_mask"][0].tolist(), reverse=True)
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape


def test_seeds_draw_other_calibration_and_probe_samples_and_methods_do_not(compose_run, tokenizer):
    drawn = {
        (method, seed): compose_run(f"method={method}", f"seed={seed}").task.prepare(tokenizer, seed, "test")
        for method in ("hu", "lora_ga")
        for seed in (0, 1)
    }
    assert drawn["hu", 0].calibration_ids == drawn["lora_ga", 0].calibration_ids
    assert drawn["hu", 0].calibration_ids != drawn["hu", 1].calibration_ids
    assert torch.equal(drawn["hu", 0].probe["input_ids"], drawn["lora_ga", 0].probe["input_ids"])
    assert not torch.equal(drawn["hu", 0].probe["input_ids"], drawn["hu", 1].probe["input_ids"])


def test_gsm8k_is_lm_evals_own_task_over_local_files(compose_run, tokenizer, gsm8k_folder):
    prepared = compose_run("task=gsm8k", f"data.root={gsm8k_folder}").task.prepare(tokenizer, 0, "test")
    (task,) = prepared.evaluations.values()
    assert [filtered.name for filtered in task._filters] == ["strict-match", "flexible-extract"]
    assert task.doc_to_text(task.eval_docs[0]) == "Question: test 0?\nAnswer:"
    assert len(task.eval_docs) == 3
    assert len(prepared.train) == 100


def test_a_carved_selection_split_is_fixed_disjoint_and_complete():
    rows = {"train": [{"id": i} for i in range(50)], "test": []}
    carved = carve_selection(rows, 10)
    assert carved == carve_selection(rows, 10)
    assert len(carved["selection"]) == 10
    assert sorted(row["id"] for split in ("train", "selection") for row in carved[split]) == list(range(50))


def test_a_selection_split_larger_than_train_is_refused():
    with pytest.raises(ValueError, match="leaves nothing of 3 training rows"):
        carve_selection({"train": [{}] * 3, "test": []}, 3)


def test_scoring_the_selection_split_does_not_touch_test():
    rows = load_rows("gsm_tiny", None, None, 1)
    docs = load_definition("gsm_tiny.yaml", rows, "selection", 0).eval_docs
    assert list(docs["question"]) == [row["question"] for row in rows["selection"]]


def test_training_examples_over_the_limit_are_left_out_and_counted(compose_run, tokenizer):
    prepared = compose_run("task.max_length=50").task.prepare(tokenizer, 0, "test")
    assert max(len(example.input_ids) for example in prepared.train) <= 50
    assert prepared.num_dropped == 4000 - len(prepared.train) > 0


def test_no_example_short_enough_is_an_error(compose_run, tokenizer):
    with pytest.raises(ValueError, match=r"task\.max_length=3"):
        compose_run("task.max_length=3").task.prepare(tokenizer, 0, "test")


def test_a_missing_split_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"train\.jsonl does not exist \(no such folder\)"):
        read_jsonl(tmp_path / "gsm8k" / "train.jsonl")


def test_a_torn_line_is_named(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(ValueError, match=r"x\.jsonl:2 is not JSON"):
        read_jsonl(tmp_path / "x.jsonl")


def test_a_hub_dataset_without_network_says_how_to_go_local(compose_run, tokenizer):
    with pytest.raises(ValueError, match=r"data\.root=FOLDER"):
        compose_run("task=gsm8k").task.prepare(tokenizer, 0, "test")


def test_a_hub_model_without_network_says_how_to_go_local():
    model = Model("m", "hub", "nobody/nothing", "main", ("q_proj",), "float32")
    with pytest.raises(ValueError, match=r"model=local model\.path=FOLDER"):
        model.load()


def test_a_models_identity_is_what_the_folder_holds_not_its_name(tmp_path):
    import shutil

    source = Path(__file__).parents[1] / "bench" / "embedded" / "tiny_llama"
    for name in ("a", "b"):
        shutil.copytree(source, tmp_path / name)
    models = {name: Model("m", "local", str(tmp_path / name), None, ("q_proj",), "float32") for name in ("a", "b")}
    assert models["a"].identity() == models["b"].identity()
    config = tmp_path / "b" / "generation_config.json"
    config.write_text(config.read_text() + "\n")
    assert models["a"].identity() != models["b"].identity()


def test_rows_are_encoded_once_a_process_and_again_for_other_rows_or_another_tokenizer(
    compose_run, tokenizer, gsm8k_folder, monkeypatch
):
    from bench.tasks import task as module

    encoded = []
    monkeypatch.setattr(module, "_encoded", {})
    monkeypatch.setattr(module, "encode", lambda *texts: encoded.append(texts) or encode(*texts))
    few = ("task.selection_samples=50", "task.calibration_samples=20")
    task = compose_run("task=gsm8k", f"data.root={gsm8k_folder}", *few).task
    first = task.prepare(tokenizer, 0, "test")
    assert len(encoded) == 300
    second = task.prepare(tokenizer, 1, "test")
    assert len(encoded) == 300
    assert second.train == first.train
    assert second.calibration_ids != first.calibration_ids
    other = Model("tiny_llama", "embedded", "tiny_llama", None, ("q_proj",), "float32").load().tokenizer
    other.add_tokens(["zebra"])
    task.prepare(other, 0, "test")
    assert len(encoded) == 600
    changed = [json.dumps({"question": f"{i}?", "answer": "#### 1"}) + "\n" for i in range(100)]
    (gsm8k_folder / "gsm8k" / "train.jsonl").write_text("".join(changed))
    task.prepare(tokenizer, 0, "test")
    assert len(encoded) == 700


def test_what_is_kept_encoded_is_bounded(compose_run, tokenizer, gsm8k_folder, monkeypatch):
    from bench.tasks import task as module

    monkeypatch.setattr(module, "_encoded", {})
    monkeypatch.setattr(module, "MOST_ENCODED", 260)
    compose_run("task=gsm8k", f"data.root={gsm8k_folder}", "task.selection_samples=50").task.prepare(
        tokenizer, 0, "test"
    )
    assert [len(examples) for examples in module._encoded.values()] == [50]  # 250 and 50: the older has gone
