import dataclasses
import json
from collections import Counter

import pytest
from records import make_record

from bench.plan import summary
from bench.plan.__main__ import main as plan_main
from bench.plan.estimate import CostEstimate, estimator
from bench.plan.gpus import GPUS, gpu_named
from bench.plan.overview import Share, fitting_command, planned_cells
from bench.plan.overview import overview as overview_of
from bench.runs.attempt import held
from bench.runs.folder import RunFolder
from bench.runs.record import COMPLETED, FAILED
from bench.study.plan_file import RUN, PlannedRun
from bench.sweep import size
from bench.sweep.expansion import PlannedCell

HOUR = 3600.0
TASK_SCORE = {
    "task": "gsm_tiny", "metric": "exact_match", "num_examples": 1000, "higher_is_better": True, "stderr": None,
    "majority": None,
}  # fmt: skip


@pytest.fixture
def make(compose_run, tmp_path):
    """A stage and overrides -> what is planned of one run, and the run."""

    def made(stage, *overrides):
        run = compose_run("train=demo", f"results_dir={tmp_path}", "study=mine", *overrides)
        group = tuple(text for text in overrides if not text.startswith(("seed=", "train.learning_rate=")))
        return PlannedCell(PlannedRun(stage, group, overrides, run.run_id), overrides, run)

    return made


def waits(entry):
    return dataclasses.replace(entry, planned=dataclasses.replace(entry.planned, run_id=None))


def refused(stage, group, reason):
    return PlannedCell(PlannedRun(stage, (group,), (group, "seed=0"), None, reason), (group, "seed=0"), None)


def left_behind(entry, status=COMPLETED, weights=True, value=0.5, gpu=None):
    """The folder of a run that was done before."""
    run = entry.run
    environment = {"hardware": {"gpu": gpu}, "fingerprint": "another"}
    phases = {name: {"seconds": 36.0, "peak_bytes": 2**30} for name in ("load", "train", "score")}
    record = make_record(
        run.run_id, status, run.method.label, run.to_dict(), run.identity, environment,
        phases=phases, scores=[TASK_SCORE | {"value": value}],
    )  # fmt: skip
    with held(RunFolder.of(run), 60, wait=False) as folder:
        if weights:
            folder.weights_path.write_bytes(b"")
        folder.close(record)


def an_hour(run):
    return CostEstimate(HOUR, run.train.batch_size * 2**30, "from 1 record")


def sized(run):
    return CostEstimate(HOUR, size.peak_bytes(run), "from its size")


def overview(entries, estimate=an_hour):
    return overview_of("mine", ["+experiments=mine"], entries, estimate)


def main(capsys, entries, *arguments):
    status = plan_main(["demo", *arguments], planner=lambda arguments: entries)
    return status, capsys.readouterr()


def test_the_states_of_runs_are_told_apart(make):
    entries = [make(RUN, "method=hu", f"seed={seed}") for seed in range(6)]
    left_behind(entries[0])
    left_behind(entries[1], weights=False)
    left_behind(entries[2], status=FAILED, weights=False)
    RunFolder.of(entries[3].run).workspace.mkdir(parents=True)
    with held(RunFolder.of(entries[4].run), 60, wait=False):
        (stage,) = overview(entries).stages
    assert (stage.cells, stage.runs, stage.done, stage.to_do) == (6, 6, 1, 4)
    assert (stage.recorded, stage.failed, stage.begun, stage.running) == (1, 1, 1, 1)
    assert (stage.waiting, stage.refused, stage.seconds) == (0, 0, 4 * HOUR)


def test_a_failed_run_is_started_again_only_when_asked(make):
    entry = make(RUN, "method=hu")
    left_behind(entry, status=FAILED, weights=False)
    left = overview([entry])
    assert (left.total.to_do, left.total.failed, left.total.retried, left.total.seconds) == (0, 1, 0, 0)
    assert "failed before, and not started again; run.retry_failed=true does: 1" in summary.text(left)
    asked = overview([make(RUN, "method=hu", "run.retry_failed=true")])
    assert (asked.total.to_do, asked.total.failed, asked.total.retried, asked.total.seconds) == (1, 0, 1, HOUR)
    assert "failed before, and started again: 1" in summary.text(asked)


def test_waiting_runs_count_in_the_hours_but_not_as_to_do(make):
    entries = [make("tuned", "method=hu", "seed=0"), waits(make("tuned", "method=lora_ga", "seed=0"))]
    (stage,) = overview(entries).stages
    assert (stage.runs, stage.to_do, stage.waiting, stage.seconds) == (2, 1, 1, 2 * HOUR)
    alike = [waits(make(name, "method=hu", "seed=0")) for name in ("tuned", "shared", "tuned")]
    assert overview(alike).total.waiting == 2  # the same cells now, with other learning rates later


def test_cells_that_come_to_the_same_run_are_counted_and_timed_once(make):
    entries = [make(stage, "method=hu", "seed=0") for stage in ("tuned", "tuned", "shared")]
    found = overview(entries)
    assert [(stage.cells, stage.runs) for stage in found.stages] == [(2, 1), (1, 1)]
    assert (found.total.cells, found.total.runs, found.total.seconds) == (3, 1, HOUR)
    assert overview([make(RUN, "method=none", f"seed={seed}") for seed in range(3)]).total.runs == 1  # trains nothing


def test_refusals_of_one_reason_are_one_line(make):
    entries = [
        make(RUN, "method=hu"),
        *(refused(RUN, f"rank=r{rank}", "too large") for rank in range(6)),
        refused("tuned", "method=eva", "no"),
    ]
    found = overview(entries)
    assert [(refusal.reason, len(refusal.cells)) for refusal in found.refusals] == [("too large", 6), ("no", 1)]
    assert (found.total.cells, found.total.runs, found.total.refused) == (8, 1, 7)
    lines = [line for line in summary.text(found).splitlines() if line.startswith("refused")]
    assert lines == [
        "refused, 6 cells: too large (run: rank=r0; run: rank=r1; run: rank=r2; run: rank=r3; and 2 more)",
        "refused, 1 cell: no (tuned: method=eva)",
    ]


def test_the_peak_is_that_of_the_largest_run_that_is_left(make):
    small, large = make(RUN, "train.batch_size=2"), make(RUN, "train.batch_size=8")
    assert overview([small, large]).total.peak_bytes == 8 * 2**30
    left_behind(large)
    assert overview([small, large]).total.peak_bytes == 2 * 2**30
    left_behind(small)
    total = overview([small, large], lambda run: pytest.fail("nothing is to be estimated")).total
    assert (total.to_do, total.seconds, total.peak_bytes) == (0, 0, None)


def test_a_model_of_unknown_size_makes_the_hours_a_lower_bound(make):
    entries = [make(RUN, "method=hu", f"seed={seed}") for seed in (0, 1)]

    def unknown(run):
        return CostEstimate(None, None, "size unknown: no architecture in conf/model") if run.seed else an_hour(run)

    found = overview(entries, unknown)
    assert (found.total.seconds, found.total.unknown) == (HOUR, 1)
    assert "≥ 1" in summary.text(found)
    assert "estimated from 1 record: 1 run\n" in summary.text(found)
    assert "size unknown: no architecture in conf/model: 1 run\n" in summary.text(found)
    assert overview(entries[1:], unknown).total.seconds is None


def selection(make, values, *, missing=0):
    entries = [
        make("select", "method=lora_ga", "seed=100", f"train.learning_rate={rate}") for rate in (1e-4, 1e-3, 1e-2)
    ]
    for entry, value in list(zip(entries, values, strict=True))[missing:]:
        left_behind(entry, value=value, weights=False)
    return overview(entries)


def test_a_best_rate_at_the_edge_of_its_grid_is_pointed_at(make):
    found = selection(make, (0.1, 0.2, 0.9))
    assert found.edges == ("lora_ga (method=lora_ga; upper end, 0.01)",)
    assert "best rate at the edge: lora_ga" in summary.text(found)
    assert "+experiments=mine hydra.sweeper.rates.reserve=4 adds points" in summary.text(found)


@pytest.mark.parametrize(("values", "missing"), [((0.1, 0.9, 0.2), 0), ((0.1, 0.2, 0.9), 1)])
def test_a_best_rate_inside_its_grid_and_that_of_an_incomplete_grid_are_not_pointed_at(make, values, missing):
    assert selection(make, values, missing=missing).edges == ()


def test_the_overview_ends_with_the_command_that_starts_the_study(make, capsys):
    status, printed = main(capsys, [make(RUN, "method=hu")], "data.root=my data")
    assert status == 0
    assert printed.out.splitlines()[-1] == "start: python -m bench.run -m +experiments=demo 'data.root=my data'"
    assert "hours are of one run after another; here 1 cell at a time: " in printed.out


def test_machines_get_the_same_numbers(make, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no results/ has records
    entry = make(RUN, "method=hu")
    left_behind(entry, weights=False)
    status, printed = main(capsys, [entry, refused(RUN, "rank=r96", "too large")], "--json")
    found = json.loads(printed.out)
    assert status == 0
    assert (found["total"]["recorded"], found["total"]["refused"]) == (1, 1)
    assert found["stages"][0]["seconds"] == pytest.approx(108.0)  # of the record: three phases of 36 s
    assert found["sources"] == {"from 1 record of another stack": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "nosuch.key=1"], "nothing reads nosuch.key"),
        (["demo", "rank=8"], "say rank=r8"),
        (["dem"], "experiments=dem does not exist"),
        (["demo", "hu"], "hu is no override; write key=value"),
        (["lora_ga/llama2_tiny", "hydra.sweeper.run=final"], "hydra.sweeper.run=final: the stages are search"),
        (["demo", "--gpu=h1000"], "--gpu=h1000 is none of h200, h100, a100-80, a100-40, l40s, 4090, and no TFLOP/s"),
        (["demo", "--gpu=0x48"], "--gpu=0x48 is none of"),
        (["demo", "--gpu=h100", "--count=0"], "--count=0 is a number of GPUs from 1 on"),
        (["demo", "--count=4"], "--count=4 is a number of GPUs from 1 on, which --gpu=NAME names"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(arguments, message, capsys):
    try:
        status = plan_main(arguments)
    except SystemExit as stopped:
        status = stopped.code
    error = capsys.readouterr().err
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith("error: ")
    assert message in error


def test_hours_on_several_gpus_and_by_method(make):
    entries = [make(RUN, f"method={method}", f"seed={seed}") for method in ("hu", "full_ft") for seed in range(3)]
    found = overview_of("mine", [], entries, an_hour, GPUS["h100"], 4)
    assert [(one.model, one.method, one.runs, one.seconds) for one in found.shares] == [
        ("tiny_llama", "hu", 3, 3 * HOUR), ("tiny_llama", "full_ft", 3, 3 * HOUR),
    ]  # fmt: skip
    assert all(one.remedy is None for one in found.shares)  # all fit
    printed = summary.text(found)
    assert "on 4 h100, a run on each: 1.5 h, if no run waits for another" in printed
    assert "|   GPU hours |" in printed
    assert "at a time" not in printed


def test_a_run_that_is_too_large_for_a_gpu_fits_with_a_smaller_batch_that_accumulates(make):
    entry = make(RUN, "method=hu", "train.batch_size=16")
    whole = size.peak_bytes(entry.run) / 2**30
    own = gpu_named(f"1x{whole * 0.7}")
    (share,) = overview_of("mine", [], [entry], sized, own).shares
    assert share.remedy == (
        "train.batch_size=8 train.gradient_accumulation_steps=2 task.calibration_batch_size=8 task.probe_samples=8"
    )
    smaller = make(RUN, "method=hu", *share.remedy.split()).run
    assert size.peak_bytes(smaller) <= own.gib * 2**30 < size.peak_bytes(entry.run)
    assert size.num_examples(smaller.train) == size.num_examples(entry.run.train)
    (share,) = overview_of("mine", [], [entry], sized, gpu_named(f"1x{whole * 0.01}")).shares
    assert share.remedy == ""
    nothing = overview_of("mine", [], [entry], sized, gpu_named(f"1x{whole * 0.01}"))
    assert "hu on tiny_llama; a smaller batch does not suffice" in summary.text(nothing)
    assert nothing.fitting is None


@pytest.mark.parametrize(
    ("remedies", "expected"),
    [
        ((None, None, None), None),
        (("", "", ""), None),
        (("", None, None), "-m +experiments=mine track=none method=hu,eva"),
        (
            (None, "train.batch_size=8", None),
            "-m +experiments=mine method=full_ft,hu,eva track=none train.batch_size=8",
        ),
        (
            ("", "train.batch_size=8", "train.batch_size=2 task.probe_samples=2"),
            "-m +experiments=mine track=none method=hu,eva train.batch_size=2 task.probe_samples=2",
        ),
    ],
)
def test_of_a_study_of_which_a_part_does_not_fit_the_command_for_the_rest_is_given(remedies, expected):
    words = ["+experiments=mine", "method=full_ft,hu,eva", "track=none"]
    shares = [
        Share("m", method, 1, HOUR, 2**30, HOUR, remedy)
        for method, remedy in zip(("full_ft", "hu", "eva"), remedies, strict=True)
    ]
    assert fitting_command(words, shares) == (expected and f"python -m bench.run {expected}")


def test_the_longest_run_is_named_for_a_cluster_that_asks_for_a_time_limit(make):
    def taking(run):
        return CostEstimate(HOUR * run.train.batch_size, 2**30, "made up")

    entries = [make(RUN, "method=hu", f"train.batch_size={size}") for size in (2, 8, 4)]
    assert "the longest run: 8 h (hu on tiny_llama)" in summary.text(overview_of("mine", [], entries, taking))


def test_a_gpu_is_as_fast_as_its_data_sheet_says_and_records_made_on_one_replace_it(make, tmp_path):
    run = make(RUN, "method=hu").run
    slow, fast = (estimator(tmp_path, gpu_named(name))(run) for name in ("30x48", "300x48"))
    assert slow.source == "from the model's size on one 30x48"
    assert slow.seconds > fast.seconds
    assert slow.peak_bytes == fast.peak_bytes == size.peak_bytes(run)
    left_behind(make(RUN, "method=hu"), gpu="NVIDIA H100 80GB HBM3")
    assert estimator(tmp_path, GPUS["h100"])(run).source.startswith("from 1 record of another stack")
    assert "record" not in estimator(tmp_path, GPUS["h200"])(run).source
    assert "record" not in estimator(tmp_path, gpu_named("300x48"))(run).source


def write_experiment(folder, text):
    (folder / "experiments").mkdir()
    (folder / "experiments" / "mine.yaml").write_text("# @package _global_\n" + text)


def test_an_experiment_without_stages_has_one_and_a_refused_cell_does_not_hide_the_others(tmp_path, monkeypatch):
    write_experiment(tmp_path, "hydra: {mode: MULTIRUN, sweeper: {params: {method: 'hu,full_ft', seed: '0,1'}}}\n")
    monkeypatch.chdir(tmp_path)
    entries = planned_cells(["+experiments=mine", "adapter.use_dora=true"])
    assert [(cell.planned.stage, cell.planned.group, cell.run is None) for cell in entries] == [
        (RUN, (f"method={method}", "adapter.use_dora=True"), method == "full_ft")
        for method in ("hu", "hu", "full_ft", "full_ft")
    ]
    assert "adapter.use_dora=true needs a method that trains" in entries[2].planned.refused
    assert entries[0].run.study == "mine"
    (refusal,) = overview(planned_cells(["+experiments=mine", "method=hu", "rank=r8,r96"])).refusals
    assert refusal.reason.startswith("rank.r=96 is larger than the smaller side 80")  # which only the model knows
    assert refusal.cells == ("run: method=hu rank=r96",) * 2


def test_what_a_command_line_interpolates_is_filled_in_each_cell():
    given = ["method=hu", "rank=r4,r16", "rank.lora_alpha=${rank.r}"]
    cells = planned_cells(["+experiments=demo", *given, "seed=0"])
    cells += planned_cells(
        ["+experiments=lora_ga/llama2_tiny", *given, "hydra.sweeper.run=search", "train.learning_rate=1e-3"]
    )
    assert {(cell.run.rank.r, cell.run.rank.lora_alpha) for cell in cells} == {(4, 4.0), (16, 16.0)}
    assert {text for cell in cells for text in cell.planned.overrides if "lora_alpha" in text} == {given[-1]}


def test_seeds_of_the_command_line_are_those_of_scoring_and_not_those_of_the_search():
    cells = planned_cells(["+experiments=compare", "method=hu", "seed=7,8"])
    seeds = {
        (cell.planned.stage, text) for cell in cells for text in cell.planned.overrides if text.startswith("seed=")
    }
    select = {("select", f"seed={seed}") for seed in (100, 101, 102)}
    assert seeds == {("search", "seed=100"), *select, ("tuned", "seed=7"), ("tuned", "seed=8")}


def test_glob_takes_the_choices_that_match():
    cells = planned_cells(["+experiments=demo", "method=glob([lora_x*,*_ft],exclude=none)", "seed=0"])
    assert [cell.planned.overrides[1] for cell in cells] == ["method=full_ft", "method=lora_xs"]


@pytest.mark.parametrize(
    ("sweeper", "message"),
    [
        ("params: {rank: 'r4,r16', rank.lora_alpha: '${rank.r}'}", "hydra.sweeper.params.rank.lora_alpha=${rank.r}"),
        ("params: {seed: '0,${rank.r}'}", "set seed to 0,${rank.r} in the experiment's body"),
        (
            "stages: {tuned: {rank.lora_alpha: '${rank.r}'}}",
            "stages.tuned.rank.lora_alpha=${rank.r} would be filled once",
        ),
        ("params: {rank: [r4, r16]}", "hydra.sweeper.params.rank is a list, which Hydra does not sweep"),
        ("params: {rank: 'glob(r9)'}", "rank=glob(r9) matches nothing; choose from r16"),
    ],
)
def test_axes_that_hydra_would_fill_for_all_cells_alike_are_refused(tmp_path, monkeypatch, capsys, sweeper, message):
    write_experiment(tmp_path, f"defaults: [{{/protocol: standard}}, _self_]\nhydra: {{sweeper: {{{sweeper}}}}}\n")
    if "stages" not in sweeper:
        write = tmp_path / "experiments" / "mine.yaml"
        write.write_text(f"# @package _global_\nhydra: {{mode: MULTIRUN, sweeper: {{{sweeper}}}}}\n")
    monkeypatch.chdir(tmp_path)
    assert plan_main(["mine"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_stages_are_planned_in_order_and_later_ones_wait(tmp_path, monkeypatch):
    write_experiment(
        tmp_path,
        """
defaults: [{/protocol: standard}, _self_]
results_dir: results
hydra:
  sweeper:
    params: {method: "hu,lora_ga"}
    rates: {centre: {hu: 1e-2, lora_ga: 3e-3}}
    stages: {published: null}
""",
    )
    monkeypatch.chdir(tmp_path)
    found = overview(planned_cells(["+experiments=mine"]))
    assert [(stage.name, stage.to_do, stage.waiting) for stage in found.stages] == [
        ("search", 6, 16), ("select", 0, 18), ("tuned", 0, 6), ("shared", 0, 6),
    ]  # fmt: skip
    assert not (tmp_path / "results").exists()
    (only,) = overview(planned_cells(["+experiments=mine", "hydra.sweeper.run=search", "seed=0,1"])).stages
    assert (only.name, only.to_do) == ("search", 6)


def test_a_sweep_without_an_experiment_is_planned_by_its_overrides(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert plan_main(["method=hu,lora_ga", "seed=0,1,2", "rank.r=4", "study=mine", "train=demo"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("mine: 6 cells, 6 different runs\n")
    assert out.splitlines()[-1] == (
        "start: python -m bench.run -m method=hu,lora_ga seed=0,1,2 rank.r=4 study=mine train=demo"
    )
    with pytest.raises(SystemExit):
        plan_main(["method=hu,lora", "seed=0"])
    assert "did you mean method=" in capsys.readouterr().err


def test_any_methods_are_compared_at_rates_of_their_own_by_naming_them(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cells = planned_cells(
        ["+experiments=compare", "method=full_ft,pissa,lora_sb", "rank=r4", "task=glue/sst2", "study=mine"]
    )
    assert Counter(cell.planned.stage for cell in cells) == {"search": 33, "select": 27, "tuned": 9}
    runs = [cell.run for cell in cells if cell.run is not None]
    assert {(run.task.name, run.rank.r, run.study) for run in runs} == {("sst2", 4, "mine")}


def test_an_experiment_that_cannot_be_composed_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    write_experiment(tmp_path, "defaults: [{override /task: nosuch}]\n")
    monkeypatch.chdir(tmp_path)
    assert plan_main(["mine"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "nosuch" in error
    assert error.count("\n") == 1
