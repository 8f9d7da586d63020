import json
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_score import loaded  # noqa: F401  the embedded model

from bench.config import ConfigError, Run
from bench.model.embedded.items import splits
from bench.model.loss import IGNORED, row_losses
from bench.process.store import Cache
from bench.report.judge.metrics import of_items
from bench.report.read.outcomes import items_of
from bench.runs.record import HASH_DIGITS, LOSS
from bench.runs.record_parts import Config
from bench.score import score
from bench.score.loss import losses_of, ratio
from bench.tasks.encoded import Examples
from bench.tasks.examples import Example
from bench.tasks.targets import Targets
from models import PLAIN_WORDS, scoring, tiny_bert, tiny_llama, tiny_t5, whole, word_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:incomplete")
READER = SimpleNamespace(limit=64, examples=Examples)
ONLY = {"limit": None, "only_loss": True}


def of_model(model, tokenizer, **batch):
    """What transformers says is the mean loss of one row by itself, with all its logits."""
    with torch.no_grad():
        return model.eval()(**{name: torch.tensor([values]) for name, values in batch.items()}).loss.item()


def losses(loaded, targets, **settings):  # noqa: F811
    """The score, and loss and number of label tokens of each item."""
    found = score(loaded, {}, scoring(**ONLY | settings), targets)
    return found.scores, [outcome.metrics[LOSS] for outcome in found.outcomes]


def glue_folder(folder, task, form):
    """A local folder of a data set with rows of different lengths."""
    draw = random.Random(0)
    (folder / task).mkdir(parents=True)
    texts = [" ".join(draw.choices(PLAIN_WORDS, k=draw.randint(2, 12))) for _ in range(24)]
    for split in ("train", "validation"):
        rows = [{name: value(text) for name, value in form.items()} for text in texts]
        (folder / task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


SST2 = {"sentence": str, "label": lambda text: len(text) % 2}
STSB = {"sentence1": str, "sentence2": lambda text: text[::-1], "label": lambda text: len(text) / 40}


def test_the_loss_of_a_causal_models_targets_is_that_of_each_prompt_and_answer_by_itself(loaded, compose_run):  # noqa: F811
    task = compose_run().task.prepare(loaded, 0, "test", trains=False, loss_samples=7)
    rows, (expected, counted) = splits("gsm_tiny")["test"][:7], ([], [])
    for row in rows:
        prompt = loaded.tokenizer(f"Question: {row['question']}\nAnswer:").input_ids
        answer = [*loaded.tokenizer(f" {row['answer']}").input_ids, loaded.tokenizer.eos_token_id]
        mean = of_model(loaded.model, None, input_ids=prompt + answer, labels=[IGNORED] * len(prompt) + answer)
        expected.append(mean * len(answer))
        counted.append(len(answer))
    (found,), items = losses(loaded, task.targets)
    assert [number for _, number in items] == counted
    assert [loss for loss, _ in items] == pytest.approx(expected, rel=1e-5)
    assert (found.task, found.metric, found.num_examples, found.higher_is_better) == ("gsm_tiny", "loss", 7, False)
    assert found.value == pytest.approx(sum(expected) / sum(counted), rel=1e-6)
    assert found.value == pytest.approx(sum(loss for loss, _ in items) / sum(counted), rel=1e-12)


def test_an_encoder_decoders_targets_are_read_by_its_decoder(compose_run, tmp_path):
    rows = glue_folder(tmp_path, "glue_sst2", SST2)
    model, tokenizer = tiny_t5(), word_tokenizer("seq2seq")
    task = compose_run("task=glue/sst2", "model=t5_base", f"data.root={tmp_path}").task
    found = task.prepare(whole(model, "seq2seq", tokenizer), 0, "test", trains=False, loss_samples=9)
    expected = []
    for row in rows[:9]:
        prompt = f"{row['sentence']}\nQuestion: Is this sentence positive or negative?\nAnswer:"
        choice = ("negative", "positive")[row["label"]]
        target = [*tokenizer(choice, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        mean = of_model(model, None, input_ids=tokenizer(prompt).input_ids, labels=target)
        expected.append(mean * len(target))
    (mean,), items = losses(whole(model, "seq2seq", tokenizer), found.targets)
    assert [loss for loss, _ in items] == pytest.approx(expected, rel=1e-5)
    assert mean.value == pytest.approx(sum(expected) / sum(number for _, number in items), rel=1e-6)


@pytest.mark.parametrize(("name", "form", "num_labels"), [("sst2", SST2, 2), ("stsb", STSB, 1)])
def test_an_encoders_loss_is_the_mean_over_rows(compose_run, tmp_path, name, form, num_labels):
    rows = glue_folder(tmp_path, f"glue_{name}", form)
    model, tokenizer = tiny_bert(num_labels), word_tokenizer()
    task = compose_run(f"task=glue/{name}", "model=bert_base", f"data.root={tmp_path}").task
    found = task.prepare(whole(model, "encoder"), 0, "test", trains=False, loss_samples=100)
    texts = [name for name in form if name != "label"]
    expected = [of_model(model, None, labels=row["label"], **tokenizer(*[row[name] for name in texts])) for row in rows]
    (mean,), items = losses(whole(model, "encoder"), found.targets)
    assert items == [[pytest.approx(loss, rel=1e-5, abs=1e-6), 1] for loss in expected]
    assert mean.value == pytest.approx(np.mean(expected), rel=1e-6)
    assert mean.stderr == pytest.approx(np.std(expected, ddof=1) / math.sqrt(len(rows)), rel=1e-4)


def test_batches_move_no_loss(loaded, compose_run):  # noqa: F811
    task = compose_run("task=glue_tiny").task.prepare(loaded, 0, "test", trains=False, loss_samples=40)
    alone, together = (losses(loaded, task.targets, batch_tokens=tokens)[1] for tokens in (1, 2048))
    assert len(alone) == 3 * 40
    assert np.allclose(alone, together, rtol=1e-6, atol=1e-6)


def test_a_model_without_a_cheap_projection_has_the_same_losses(monkeypatch):
    model, examples = tiny_llama(), [Example([5, 6, 7, 8], [IGNORED, IGNORED, 7, 8]), Example([9, 4], [IGNORED, 4])]
    cheap = losses_of(whole(model), examples, scoring())
    monkeypatch.setattr("bench.model.loss.projects_labels", lambda model: False)
    torch.testing.assert_close(losses_of(whole(model), examples, scoring()), cheap, rtol=1e-6, atol=0)


def test_a_loss_is_summed_over_label_tokens_and_near_certainty_keeps_its_digits():
    class Certain:
        class config:  # noqa: N801
            is_encoder_decoder = False

        def __call__(self, input_ids):
            logits = torch.zeros(*input_ids.shape, 4)
            logits[:, 0, 2], logits[:, 1, 3] = 100.0, 12.0
            return type("Output", (), {"logits": logits})

        def get_output_embeddings(self):
            return None

    labels = torch.tensor([[IGNORED, 2, 3], [IGNORED, 2, IGNORED]])
    sums, numbers = row_losses(Certain(), {"input_ids": torch.zeros(2, 3, dtype=torch.long), "labels": labels})
    assert numbers.tolist() == [2, 1]
    assert sums.tolist() == [pytest.approx(math.log1p(3 * math.exp(-12)), rel=1e-2), 0.0]


def test_of_a_row_longer_than_the_model_the_start_of_the_prompt_is_cut():
    model = tiny_llama()
    prompt, answer = [5] * 70, [6, 7, 2]
    example = Example(prompt + answer, [IGNORED] * len(prompt) + answer)
    targets = Targets.of([{"a": 1}], lambda doc: [example], READER)
    (found,), _ = losses(whole(model), {"t": targets})
    seen = (prompt + answer)[-64:]
    assert found.value == pytest.approx(of_model(model, None, input_ids=seen, labels=[IGNORED] * 61 + answer), rel=1e-5)
    assert targets.examples.truncated.tolist() == [True]


def test_a_text_that_is_read_in_windows_is_one_item(compose_run, tmp_path):
    (tmp_path / "wikitext2").mkdir()
    texts = ["the cat sees a dog " * 30, "a bird", "the old man likes the tree " * 12]
    for split in ("train", "test"):
        lines = "".join(json.dumps({"page": text}) + "\n" for text in texts)
        (tmp_path / "wikitext2" / f"{split}.jsonl").write_text(lines)
    model, tokenizer = tiny_llama(), word_tokenizer("causal")
    task = compose_run("task=wikitext2", f"data.root={tmp_path}").task
    found = task.prepare(whole(model, tokenizer=tokenizer), 0, "test", trains=False, loss_samples=3)
    (mean,), items = losses(whole(model, tokenizer=tokenizer), found.targets)
    assert [number for _, number in items] == [len(tokenizer(text).input_ids) for text in texts]
    assert mean.num_examples == 3


def test_targets_come_back_from_the_cache_as_they_were(tmp_path):
    examples = {1: [Example([5, 6], [IGNORED, 6])], 2: [Example([5, 7, 8], [IGNORED, 7, 8]), Example([7], [IGNORED])]}
    del examples[2][1]
    made = Targets.of([{"a": 1}, {"a": 2}], lambda doc: examples[doc["a"]], READER)
    cache = Cache(enabled=True, dir=tmp_path, max_gb=1.0)
    cache.fetch("key", "title", lambda: made, Targets)
    read, _ = cache.fetch("key", "title", pytest.fail, Targets)
    assert (list(read.examples), read.rows.tolist(), read.hashes) == (list(made.examples), [0, 1], made.hashes)


def test_the_standard_error_is_that_of_leaving_items_out_in_turn():
    draw = np.random.default_rng(0)
    items = [(float(number * draw.exponential()), int(number)) for number in draw.integers(1, 30, 500)]
    value, stderr = ratio(items)
    losses, numbers = np.array(items).T
    left = (losses.sum() - losses) / (numbers.sum() - numbers)
    assert value == pytest.approx(losses.sum() / numbers.sum())
    assert stderr == pytest.approx(math.sqrt((499 / 500) * ((left - left.mean()) ** 2).sum()), rel=0.02)
    assert ratio(items[:1]) == (pytest.approx(items[0][0] / items[0][1]), None)


def test_the_mean_over_items_that_are_drawn_again_is_a_ratio_of_sums():
    found = of_items(LOSS, np.array([[3.0, 1], [1.0, 4]]))
    assert found.whole == 0.8
    assert found.value(2 * found.items[0] + found.items[1]) == pytest.approx(7 / 6)


def test_loss_alone_of_no_rows_is_refused(compose):
    with pytest.raises(ConfigError, match="scores nothing; ask for rows"):
        Run.from_config(compose("score.only_loss=true", "score.loss_samples=0"))


def test_a_run_from_before_losses_were_taken_is_repeated_without_them(run):
    record, _ = run
    config = record.config.model_dump()
    del config["score"]["loss_samples"], config["retention"]
    again = Run.from_record(record.model_copy(update={"config": Config.model_validate(config)}))
    assert (again.score.loss_samples, again.retention.num_tokens, again.run_id) == (0, 0, record.run_id)


# In a run


@pytest.fixture(scope="module")
def run(run_cell_in_module):
    return run_cell_in_module("task=glue_tiny")


def test_a_run_has_the_loss_after_each_datasets_metrics_and_of_the_items_that_it_scored(run):
    record, folder = run
    assert [(one.task.partition("_")[0], one.metric) for one in record.scores] == [
        ("acceptability", "mcc"), ("acceptability", "loss"), ("paraphrase", "acc"), ("paraphrase", "f1"),
        ("paraphrase", "loss"), ("entailment", "acc"), ("entailment", "loss"),
    ]  # fmt: skip
    rows = folder.rows("outcomes.jsonl.gz")
    for one in record.scores:
        items = items_of(folder.path, one.task, one.metric)
        assert of_items(one.metric, items.values).whole == pytest.approx(one.value, rel=1e-9)
        of_loss = {row["doc_id"]: row["doc_hash"] for row in rows if (row["task"], row["filter"]) == (one.task, LOSS)}
        scored = {row["doc_id"]: row["doc_hash"][:HASH_DIGITS] for row in rows if row["task"] == one.task}
        assert of_loss == scored


def test_without_it_every_other_number_is_the_same_and_loss_alone_needs_no_metric(run, run_cell_in_module):
    record, _ = run
    without, _ = run_cell_in_module("task=glue_tiny", "score.loss_samples=0")
    assert without.scores == [one for one in record.scores if one.metric != LOSS]
    assert (without.run_id, without.eval_loss) == (record.run_id, record.eval_loss)
    alone, folder = run_cell_in_module("task=glue_tiny", "score.only_loss=true")
    assert alone.scores == [one for one in record.scores if one.metric == LOSS]
    assert {row["filter"] for row in folder.rows("outcomes.jsonl.gz")} == {LOSS}
    assert alone.run_id != record.run_id
