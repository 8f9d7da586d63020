import itertools
from collections import Counter

import pytest
import torch

from bench.tasks.examples import Example, collate
from bench.train import order
from bench.train.journal import ends
from built_methods import built
from models import PAD, tiny_bert, tiny_llama, tiny_t5
from two_trainings import Case, bert, examples, trained


def test_every_method_gets_the_same_order_and_every_seed_another():
    assert order(50, 120, seed=0) == order(50, 120, seed=0)
    assert order(50, 120, seed=0) != order(50, 120, seed=1)


def test_an_epoch_draws_every_example_once():
    drawn = order(50, 120, seed=0)
    assert Counter(drawn[:50]) == Counter(range(50))
    assert Counter(drawn[50:100]) == Counter(range(50))
    assert drawn[:50] != drawn[50:100]


def test_a_longer_budget_starts_with_the_shorter_one():
    assert order(50, 120, seed=0)[:70] == order(50, 70, seed=0)


def test_a_loss_is_judged_by_the_first_steps_and_the_last_tenth():
    assert ends([1.0] * 9) is None
    assert ends([3.0] + [9.0] * 8 + [2.0]) == (3.0, 2.0)
    assert ends([3.0] * 5 + [9.0] * 85 + [2.0] * 10) == (3.0, 2.0)


@pytest.mark.parametrize(("rate", "rose"), [("1", True), ("1e-2", False)])
def test_a_loss_that_ended_above_where_it_began_is_a_warning_and_in_the_record(run_cell, recwarn, rate, rose):
    record, _ = run_cell("method=full_ft" if rose else "method=hu", "train.max_steps=20", f"train.learning_rate={rate}")
    assert record.training.loss_rose is rose
    told = [str(one.message) for one in recwarn if "the training loss ended above where it began" in str(one.message)]
    assert len(told) == rose
    assert all("take a lower train.learning_rate" in text for text in told)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_curve_has_one_row_a_step_with_the_loss_of_the_drawn_batch(run_cell, accumulation):
    overrides = [f"train.gradient_accumulation_steps={accumulation}", f"train.batch_size={4 // accumulation}"]
    _, folder = run_cell("method=hu", "train.max_steps=4", "train.eval_steps=2", *overrides)
    rows = folder.rows("curve.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [("eval_loss" in row) for row in rows] == [False, True, False, True]
    assert all(later["tokens"] > row["tokens"] for row, later in itertools.pairwise(rows))
    # The schedule's warm-up starts at zero: the first two losses are of the untouched model.
    assert rows[0]["learning_rate"] == 0.0


def test_accumulating_two_half_batches_gives_the_loss_of_the_whole(run_cell):
    losses = []
    for size, accumulation in ((4, 1), (2, 2)):
        overrides = [f"train.batch_size={size}", f"train.gradient_accumulation_steps={accumulation}"]
        _, folder = run_cell("method=hu", "train.max_steps=3", *overrides)
        losses.append([row["loss"] for row in folder.rows("curve.jsonl")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def tiny_regression():
    return tiny_bert(num_labels=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


EVALUATED = {
    "causal": (tiny_llama, "causal"),
    "classification": (bert, "encoder"),
    "regression": (tiny_regression, "regression"),
    "seq2seq": (lambda: tiny_t5(dropout_rate=0.0), "seq2seq"),
}


@pytest.mark.parametrize("name", EVALUATED)
def test_the_eval_loss_of_equal_weights_is_that_of_single_examples_at_any_batch_size(name, monkeypatch):
    build, kind = EVALUATED[name]
    if kind == "regression":
        made = [Example(e.input_ids, 0.5 + e.labels) for e in examples("encoder")]
        monkeypatch.setattr("two_trainings.examples", lambda _kind: made)
    found = []
    once = {"max_steps": 1, "eval_steps": 1, "warmup_steps": 1}  # a warm-up starts at zero: nothing moves
    for size, accumulation in ((1, 4), (4, 1), (4, 2)):
        settings = once | {"batch_size": size, "gradient_accumulation_steps": accumulation}
        found += trained(Case(build, built("hu"), kind, settings=settings), "ddp")["eval_loss"]
    total, counted, model = 0.0, 0, build().eval()
    for example in (made if kind == "regression" else examples(kind))[30:37]:
        batch = collate([example], PAD)
        tokens = 1 if batch["labels"].dim() == 1 else int((batch["labels"] != -100).sum())
        total += model(**batch).loss.item() * tokens
        counted += tokens
    assert found == pytest.approx([total / counted] * 3, rel=1e-5)


def test_how_often_the_eval_loss_is_taken_changes_nothing_of_training_with_dropout():
    curves = [trained(Case(tiny_bert, built("hu"), "encoder", settings={"eval_steps": n}), "ddp") for n in (1, 4)]
    assert curves[0]["loss"] == curves[1]["loss"]
    assert curves[0]["eval_loss"][-1] == curves[1]["eval_loss"][-1]


def test_a_loss_that_is_not_finite_stops_the_run_and_is_recorded_with_its_step(run_cell):
    record, folder = run_cell(
        "method=full_ft", "train.max_steps=30", "train.learning_rate=1e30", "train.warmup_steps=0"
    )
    assert record.status == "failed"
    assert record.error.type == "DivergedError"
    assert record.error.step == len(folder.rows("curve.jsonl")) + 1
    assert f"at step {record.error.step}" in record.error.message


def test_bfloat16_autocast_trains_float32_masters(run_cell):
    from safetensors.torch import load_file

    record, folder = run_cell("method=lora_sb", "train.precision=bf16", "train.max_steps=3")
    assert record.status == "completed"
    assert {tensor.dtype for tensor in load_file(folder.path / "trained.safetensors").values()} == {torch.float32}


def test_a_bfloat16_base_keeps_float32_adapters_and_reports_what_rounding_changed(run_cell):
    record, _ = run_cell("method=lora_ga", "model.dtype=bfloat16", "train.max_steps=2")
    assert record.status == "completed"
    assert record.initialization.logit_change > 0


def test_loraplus_moves_b_by_the_ratio_and_a_as_before(run_cell):
    from safetensors.torch import load_file

    # One step from a start where both factors have gradients; Adam's first step has the size of its learning rate.
    once = ["method=orthogonal", "train.max_steps=1", "train.warmup_steps=0", "train.learning_rate=1e-3"]
    moved = {}
    for ratio in ("null", "16"):
        _, folder = run_cell(*once, f"adapter.loraplus_lr_ratio={ratio}")
        tensors = load_file(folder.path / "trained.safetensors")
        for part in ("lora_A", "lora_B"):
            names = [name for name in tensors if name.endswith(f"proj.{part}")]
            steps = [tensors[n] - tensors[n.replace(f".{part}", f".initial.{part}")] for n in names]
            moved[ratio, part] = torch.cat([step.flatten() for step in steps]).abs().median().item()
    assert moved["16", "lora_A"] == pytest.approx(moved["null", "lora_A"], rel=1e-2)
    assert moved["16", "lora_B"] == pytest.approx(16 * moved["null", "lora_B"], rel=1e-2)
    assert moved["null", "lora_B"] == pytest.approx(1e-3, rel=1e-2)
