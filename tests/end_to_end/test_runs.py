"""Whole runs of few steps, each in this process, from configuration to record."""

import functools
from pathlib import Path

import pytest
from safetensors.torch import load_file

METHODS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "method").glob("*.yaml"))
# By night: those that ask for the statistics, and train the factors, of another one.
ALIKE = {
    "asymmetry_a", "lora_ga_peft", "lora_null_v2", "middle", "milora", "nzlora", "olora", "orthogonal", "pissa_niter",
    "psoft", "stella",
}  # fmt: skip
TRAINED = [name for name in METHODS if name not in {"none", *ALIKE}]


def each(methods):
    return [pytest.param(name, marks=pytest.mark.faults if name in ALIKE else ()) for name in methods]


@pytest.fixture(scope="module")
def cell(run_cell_in_module):
    """A short run of a method."""
    return functools.cache(lambda method: run_cell_in_module(f"method={method}"))


@pytest.mark.parametrize("method", each(METHODS))
def test_every_method_runs_to_a_complete_record(cell, method):
    record, folder = cell(method)
    assert record.status == "completed", record.error
    assert [score.metric for score in record.scores] == ["exact_match,strict-match", "loss"]
    assert (folder.path / "trained.safetensors").is_file()
    assert len(folder.rows("outcomes.jsonl.gz")) == sum(score.num_examples for score in record.scores) == 8
    assert {"load", "score"} <= set(record.phases)
    assert all(phase.seconds >= 0 for phase in record.phases.values())
    assert record.data.sha256
    assert record.model.revision


@pytest.mark.parametrize("method", each(name for name in METHODS if name != "none"))
def test_every_trained_method_leaves_its_curve_and_alignment(cell, method):
    _, folder = cell(method)
    assert [row["step"] for row in folder.rows("curve.jsonl")] == [1, 2, 3, 4]
    aligned = folder.rows("alignment.jsonl")
    assert {row["step"] for row in aligned} == {0, 2, 4}
    cosines = [row["value"] for row in aligned if row["layer"] == "all" and row["measure"] == "cosine"]
    assert all(0 < cosine <= 1 + 1e-6 for cosine in cosines)


def test_methods_pair_the_first_loss_is_that_of_the_pretrained_model(cell, compose_run):
    losses = {method: cell(method)[1].rows("curve.jsonl")[0]["loss"] for method in TRAINED}
    keeping = {m: loss for m, loss in losses.items() if compose_run(f"method={m}").method.keeps_function}
    assert {"full_ft", "hu", "lora_ga", "pissa", "eva"} <= keeping.keys()
    assert keeping == pytest.approx(dict.fromkeys(keeping, losses["full_ft"]), rel=1e-5)
    assert losses["lora_xs"] == pytest.approx(losses["full_ft"], rel=1e-3)  # R starts at 1e-5, not at 0
    for method in ("lora_sb", "lora_one"):  # their first step is built in
        assert losses[method] != pytest.approx(losses["full_ft"], rel=1e-2)


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        ("hu", {"lora_A", "lora_B"}),
        ("lora_xs", {"lora_R"}),
        ("lora_sb", {"lora_R"}),
        ("asymmetry_b", {"lora_B"}),
        ("mica", {"lora_A"}),
    ],
)
def test_exactly_the_promised_tensors_move(cell, method, parts):
    _, folder = cell(method)
    tensors = load_file(folder.path / "trained.safetensors")
    moved = set()
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        if not layer.endswith(".initial") and not tensor.equal(tensors[f"{layer}.initial.{part}"]):
            moved.add(part)
    assert moved == parts


def test_trainable_parameters_are_counted(cell):
    shapes = [(160, 128), (80, 128), (80, 128), (128, 160), (320, 128), (320, 128), (128, 320)]
    counted = ("hu", "reversed", "lora_ga", "lora_xs", "lora_sb", "none", "full_ft")
    counts = {method: cell(method)[0].initialization.num_trainable for method in counted}
    both = 4 * sum(4 * (rows + columns) for rows, columns in shapes)
    assert counts["hu"] == counts["reversed"] == counts["lora_ga"] == both
    assert counts["lora_xs"] == counts["lora_sb"] == 4 * 7 * 4 * 4
    assert counts["none"] == 0
    assert counts["full_ft"] == cell("none")[0].model.num_parameters


def test_switching_the_measures_off_changes_no_other_number(cell, run_cell):
    for method in ("hu", "full_ft"):
        _, measured = cell(method)
        _, plain = run_cell(f"method={method}", "measure.alignment_steps=0")
        kept = ("step", "loss", "learning_rate", "grad_norm", "tokens")
        rows = [[{key: row[key] for key in kept} for row in folder.rows("curve.jsonl")] for folder in (measured, plain)]
        assert rows[0] == rows[1]
        assert plain.rows("alignment.jsonl") == []
        weights = [load_file(folder.path / "trained.safetensors") for folder in (measured, plain)]
        assert all(tensor.equal(weights[1][name]) for name, tensor in weights[0].items())


def test_two_seeds_differ_in_order_and_in_lora_a(cell, run_cell):
    _, zero = cell("hu")
    _, one = run_cell("method=hu", "seed=1")
    assert zero.rows("curve.jsonl")[0]["tokens"] != one.rows("curve.jsonl")[0]["tokens"]
    starts = [load_file(folder.path / "trained.safetensors") for folder in (zero, one)]
    names = [name for name in starts[0] if name.endswith("initial.lora_A")]
    assert names
    assert not any(starts[0][name].equal(starts[1][name]) for name in names)


@pytest.mark.parametrize("task", ["commonsense_tiny", "glue_tiny"])
def test_the_other_tasks_run_with_every_kind_of_method(run_cell, task):
    for method in ("full_ft", "lora_sb"):
        record, _ = run_cell(f"method={method}", f"task={task}", "train.max_steps=2")
        assert record.status == "completed", record.error
        assert all(-1 <= score.value <= 1 for score in record.scores if score.higher_is_better)


def test_a_run_that_fails_leaves_a_record_and_its_curve(run_cell):
    record, folder = run_cell("method=lora_xs", "rank.r=100")
    assert record.status == "failed"
    assert "rank.r=100 is larger than the smaller side 80 of model.layers.0.self_attn.k_proj" in record.error.message
    assert not folder.done


def test_options_that_any_method_can_carry_are_measured_too(run_cell):
    for options in ([], ["adapter.loraplus_lr_ratio=4"]):
        record, folder = run_cell("method=lora_ga", "adapter.use_dora=true", "score.limit=1", *options)
        assert record.status == "completed", record.error
        rows = folder.rows("alignment.jsonl")
        cosines = [row["value"] for row in rows if row["measure"] == "cosine"]
        assert all(0 < cosine <= 1 + 1e-6 for cosine in cosines)
        assert {row["value"] for row in rows if row["measure"] == "attainable_cosine"} == {None}
        drifts = {step: [r["value"] for r in rows if r["measure"] == "drift" and r["step"] == step] for step in (0, 4)}
        assert max(drifts[0]) < 1e-5
        assert min(drifts[4]) > 1e-4


def test_eva_gives_ranks_out_and_its_record_says_which(cell):
    record, _ = cell("eva")
    ranks = [layer.r for layer in record.initialization.layers]
    assert sum(ranks) == 4 * len(ranks)
    assert len(set(ranks)) > 1
    assert max(ranks) <= 8
    assert {layer.r for layer in cell("hu")[0].initialization.layers} == {4}
    assert {layer.r for layer in cell("full_ft")[0].initialization.layers} == {None}


@pytest.mark.parametrize(
    ("method", "r", "message"),
    [
        ("lora_ga", 41, "LoRA-GA uses 2r = 82 singular vectors, but model.layers.0.self_attn.k_proj has a side of 80"),
        ("lora_ga_peft", 41, "take r of at most 40"),
        ("orthogonal", 7, "model.layers.0.self_attn.q_proj is to have r = 7; take an even r, 6 or 8"),
    ],
)
def test_a_rank_that_a_method_cannot_have_fails_before_any_data_is_read(run_cell, method, r, message, monkeypatch):
    def unread(*_):
        raise AssertionError("calibration began")

    monkeypatch.setattr("bench.init.stage.calibrate", unread)
    record, _ = run_cell(f"method={method}", f"rank.r={r}")
    assert record.error.type == "ValueError"
    assert message in record.error.message


def left(record, folder):
    """All of a run that is not a time, a size of memory, or the software at hand."""
    calibration = record.initialization.calibration
    computed = calibration and (calibration.loss, calibration.largest_error)
    initialization = record.initialization.model_dump(exclude={"calibration"})
    rows = [row | {"seconds": None} for row in folder.rows("curve.jsonl")]
    training = record.training.model_dump(exclude={"seconds"})
    kept = (record.identity, initialization, computed, training, record.scores)
    trained = load_file(folder.path / "trained.safetensors")
    weights = {name: tensor.numpy().tobytes() for name, tensor in trained.items()}
    return kept, rows, folder.rows("alignment.jsonl"), folder.rows("outcomes.jsonl.gz"), weights


@pytest.mark.parametrize(
    "method", ["lora_ga", *(pytest.param(m, marks=pytest.mark.faults) for m in ("full_ft", "eva", "lora_sb"))]
)
def test_a_cell_leaves_the_same_bits_first_or_last_and_whether_calibration_was_read(run_cell, method, tmp_path):
    cell = (f"method={method}", f"cache.dir={tmp_path / 'cache'}", "rank=r8")
    first = left(*run_cell(*cell))
    run_cell("method=pissa", "task=commonsense_tiny", "seed=3")
    record, folder = run_cell(*cell)
    if method != "full_ft":
        assert record.initialization.calibration.read
        assert left(*run_cell(*cell, "cache.enabled=false")) == first
    assert left(record, folder) == first


def test_a_calibration_that_another_rank_has_left_is_read_and_changes_no_bit(run_cell, tmp_path):
    cache = f"cache.dir={tmp_path / 'cache'}"
    alone = left(*run_cell("method=lora_ga", "rank=r8", "cache.enabled=false"))
    writer, _ = run_cell("method=lora_ga", "rank=r16", "train.learning_rate=1e-4", cache)
    reader, folder = run_cell("method=lora_ga", "rank=r8", cache)
    costs = [record.initialization.calibration for record in (writer, reader)]
    assert [cost.read for cost in costs] == [False, True]
    assert costs[0].seconds == costs[1].seconds  # what computing cost, also where it was read
    assert left(reader, folder) == alone


def test_a_sketched_gradient_is_the_methods_option_and_lora_sbs_refused_one(run_cell, compose_run):
    record, _ = run_cell("method=lora_one", "method.gradient=sketch", "svd.sketch_bound=1")
    assert record.status == "completed"
    assert 0 < record.initialization.calibration.largest_error < 1
    with pytest.raises(ValueError, match=r"method\.gradient='sketch': LoRA-SB takes the sign of each entry"):
        compose_run("method=lora_sb", "method.gradient=sketch")


def test_more_calibration_samples_than_there_are_fail_the_run_in_one_line(run_cell):
    record, _ = run_cell("method=lora_ga", "task.calibration_samples=100000")
    assert record.status == "failed"
    assert "task.calibration_samples=100000, but gsm_tiny has" in record.error.message


def test_calibration_samples_may_have_a_seed_of_their_own(run_cell):
    ids = []
    for seeds in (["task.calibration_seed=5"], ["task.calibration_seed=5", "seed=1"], ["seed=1"]):
        record, _ = run_cell("method=lora_ga", "train.max_steps=1", "measure=none", "score.limit=1", *seeds)
        ids.append(record.initialization.calibration_ids)
    assert ids[0] == ids[1] != ids[2]


def test_a_pretrained_model_is_scored_once_for_all_studies_of_one_stack(compose_run, tmp_path, capsys, monkeypatch):
    from bench.run import run
    from bench.runs.job import execute

    def cell(study, *more):
        cfg = compose_run(
            "method=none", "track=none", "score.limit=4", f"results_dir={tmp_path}", f"study={study}", *more
        )
        execute(cfg, run, "[1/1]")
        return capsys.readouterr().out, tmp_path / study / cfg.run_id

    first, folder = cell("one")
    assert "exact_match" in first
    again, copied = cell("paper/two")
    assert f"scored before, in {tmp_path / 'one'}" in again
    assert (copied / "record.json").read_bytes() == (folder / "record.json").read_bytes()
    assert "exact_match" in cell("three", "score.limit=5")[0]
    monkeypatch.setattr("bench.runs.folder.fingerprint", lambda: "another")
    assert "exact_match" in cell("four")[0]


def test_a_trained_run_of_another_study_is_done_again(compose_run, tmp_path, capsys):
    from bench.run import run
    from bench.runs.job import execute

    short = ("train.max_steps=1", "train.batch_size=2", "task.calibration_samples=2", "measure=none", "score.limit=2")
    for study in ("one", "two"):
        execute(compose_run(*short, "track=none", f"results_dir={tmp_path}", f"study={study}"), run, "[1/1]")
        assert "eval loss" in capsys.readouterr().out
