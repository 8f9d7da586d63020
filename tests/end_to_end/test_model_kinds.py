"""Whole runs of encoders and encoder-decoders, built here, on the embedded tasks."""

import json
import subprocess
import sys

import pytest
import torch

from bench import export
from models import tiny_bart, tiny_bert, tiny_t5, word_tokenizer

ACCEPTABILITY = ["task=glue_tiny", "task.train=[acceptability_tiny]", "task.score=[acceptability_tiny]"]
METHODS = "full_ft hu reversed lora_ga lora_xs lora_sb eva corda".split()
CASES = [("encoder", method) for method in METHODS]
# Encoder-decoders of two architectures, which differ by their model and not by what a method does to it.
CASES += [("t5", method) for method in ("full_ft", "hu", "lora_ga", "lora_xs", "eva")]
CASES += [("bart", method) for method in ("hu", "reversed", "lora_sb", "corda")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {"encoder": tiny_bert().bert, "t5": tiny_t5(), "bart": tiny_bart()}
    found = {}
    for name, model in made.items():
        found[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(found[name])
        word_tokenizer("encoder" if name == "encoder" else "seq2seq").save_pretrained(found[name])
    return found


@pytest.fixture(scope="module")
def run_model(run_cell_in_module, folders):
    """Model and method -> record and folder, each run once."""
    done = {}

    def run(name, method, *more):
        key = (name, method, more)
        if key not in done:
            task = ACCEPTABILITY if name == "encoder" else ["task=commonsense_tiny"]
            model = ["model=local", f"model.path={folders[name]}"]
            rate = "train.learning_rate=1e-3"
            done[key] = run_cell_in_module(*task, *model, f"method={method}", "rank=r4", rate, *more)
        return done[key]

    return run


@pytest.mark.parametrize(("name", "method"), CASES)
def test_every_kind_of_model_runs_with_every_kind_of_start(run_model, name, method):
    record, cell = run_model(name, method)
    assert record.status == "completed", record.error
    assert record.model.kind == ("encoder" if name == "encoder" else "seq2seq")
    assert {score.task for score in record.scores} == {
        "acceptability_tiny" if name == "encoder" else "commonsense_tiny"
    }
    assert {row["measure"] for row in cell.rows("alignment.jsonl")} >= {"cosine", "captured_energy"}
    if method not in ("full_ft", "lora_sb"):
        assert record.initialization.logit_change < 1e-3
    assert record.scoring.merged is None if method == "full_ft" else record.scoring.merged["num_differing"] == 0


def test_the_shipped_encoder_decoder_is_trained_on_summaries_and_scored_by_rouge_item_by_item(run_cell_in_module):
    record, cell = run_cell_in_module("task=summary_tiny", "model=tiny_t5", "method=asymmetry_b", "rank=r4")
    assert record.status == "completed", record.error
    metrics = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    assert [score.metric for score in record.scores] == [*metrics, "loss"]
    items = [row for row in cell.rows("outcomes.jsonl.gz") if row["filter"] != "loss"]
    assert len(items) == 4
    for score in record.scores[:4]:
        assert 0 <= score.value <= 1
        assert score.value == pytest.approx(sum(row["metrics"][score.metric] for row in items) / 4)
    assert record.scoring.truncated == {"summary_tiny": 0}
    assert record.initialization.num_trainable < record.model.num_parameters / 10


def test_a_head_trains_in_every_method_and_is_counted_apart(run_model):
    head = 2 * 24 + 2
    records = {method: run_model("encoder", method)[0].initialization for method in METHODS}
    assert {found.num_head for found in records.values()} == {head}
    assert records["lora_xs"].num_trainable == 12 * 4 * 4
    pretrained = sum(parameter.numel() for parameter in tiny_bert().bert.parameters())
    assert run_model("encoder", "full_ft")[0].model.num_parameters == pretrained
    assert records["full_ft"].num_trainable == pretrained
    assert run_model("t5", "hu")[0].initialization.num_head == 0


def test_methods_start_from_the_same_head_and_see_the_same_batches(run_model):
    first = {m: run_model("encoder", m)[1].rows("curve.jsonl")[0]["loss"] for m in ("full_ft", "hu", "reversed", "eva")}
    assert max(first.values()) - min(first.values()) < 1e-4


def test_an_encoder_scores_what_its_saved_weights_score(run_model):
    record, cell = run_model("encoder", "hu")
    restored = export.restore(cell.path)
    model, tokenizer = restored.model.eval(), restored.tokenizer
    from bench.model.embedded.items import splits

    docs = splits("acceptability_tiny")["test"][: record.scores[0].num_examples]
    encoded = tokenizer([doc["sentence"] for doc in docs], padding=True, return_tensors="pt")
    with torch.no_grad():
        predicted = model(**encoded).logits.argmax(-1).tolist()
    outcomes = [row for row in cell.rows("outcomes.jsonl.gz") if row["filter"] != "loss"]
    assert [row["choice"] for row in outcomes] == predicted


STOCK = """
import sys, torch
from transformers import AutoModelForSequenceClassification, AutoModelForSeq2SeqLM
from peft import PeftModel

base, folder, ids, kind = sys.argv[1:]
if kind == "encoder":
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
else:
    model = AutoModelForSeq2SeqLM.from_pretrained(base)
batch = torch.load(ids)
with torch.no_grad():
    torch.save(PeftModel.from_pretrained(model, folder).eval()(**batch).logits, ids + ".out")
assert not any(name.split(".")[0] == "bench" for name in sys.modules)
"""


@pytest.mark.parametrize(("name", "method"), [("encoder", "lora_ga"), ("t5", "lora_xs")])
def test_stock_peft_loads_the_adapter_and_the_head(run_model, folders, tmp_path, name, method):
    cell = run_model(name, method)[1]
    export.write_adapter(cell.path, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["task_type"] == ("SEQ_CLS" if name == "encoder" else "SEQ_2_SEQ_LM")
    ids = torch.randint(4, 50, (3, 6), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if name != "encoder":
        batch["decoder_input_ids"] = ids[:, :4]
    torch.save(batch, tmp_path / "ids")
    arguments = [str(folders[name]), str(tmp_path / "out"), str(tmp_path / "ids"), name]
    done = subprocess.run([sys.executable, "-c", STOCK, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        trained = export.restore(cell.path).model.eval()(**batch).logits
    torch.testing.assert_close(
        torch.load(tmp_path / "ids.out"), trained, rtol=0, atol=1e-5 * trained.abs().max().item()
    )
