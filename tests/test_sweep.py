import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from bench.runs import job
from bench.study.folders import CONF
from bench.study.plan_file import RUN, PlannedRun
from bench.sweep import arguments, choices, guard
from bench.sweep.expansion import PlannedCell, shown
from bench.sweep.search_path import ExperimentsSource


def command(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "bench.run", *arguments], capture_output=True, text=True, check=False, cwd=cwd
    )


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("method=foo", "method=foo does not exist; choose from astra, asymmetry_a, asymmetry_b"),
        ("method=hu,foo", "method=foo does not exist"),
        ("rank=8", "rank=8 does not exist; say rank=r8"),
        ("+expriment=demo", "nothing reads expriment"),
        ("++expriment=demo", "nothing reads expriment"),
        ("+experiments=dem", "experiments=dem does not exist"),
        ("experiments=demo", "an experiment is added, not replaced: +experiments=demo"),
        ("nosuch.key=1", "nothing reads nosuch.key"),
        ("method=glob(nosuch*)", "method=glob(nosuch*) matches nothing; choose from astra, asymmetry_a, asymmetry_b"),
        ("seed=glob(*)", "seed=glob(*): glob(...) takes choices of a group: method, system, rank"),
        ("launch=glob([basic,workers])", "a sweep has one launcher; choose one"),
        ("study=${rank.r", "Hydra cannot read this"),
        ("train.lr_scheduler_type=~x", "Hydra cannot read this; quote a value that is a text: 'KEY=\"VALUE\"'"),
    ],
)
def test_a_wrong_argument_is_refused_before_hydra_sees_it(argument, message, capsys):
    with pytest.raises(SystemExit) as exit_status:
        arguments.check_arguments([argument, "-m"])
    error = capsys.readouterr().err
    assert exit_status.value.code == 2
    assert message in error
    assert error.count("\n") == 1


def test_every_key_of_the_defaults_is_taken_on_the_command_line():
    keys = OmegaConf.load(CONF / "config.yaml").keys() - {"defaults"}
    assert set(arguments.KEYS) == keys | set(choices.GROUPS)


def test_folders_are_read_as_they_are_written():
    given = ["retention.text=2024", "data.root=~/texts"]
    assert arguments.check_arguments(given) == ['retention.text="2024"', f'data.root="{Path.home()}/texts"']


def test_former_names_are_understood_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match=r"train\.held_out_steps is called train\.eval_steps now"):
        given = arguments.check_arguments(["-m", "train.held_out_steps=5,6", "score.split=selection,test"])
    assert given == ["-m", "train.eval_steps=5,6", "score.split=validation,test"]
    write_experiment(tmp_path, "run: {lease_seconds: 9}\nhydra: {sweeper: {params: {score.split: 'selection'}}}\n")
    with pytest.warns(UserWarning, match=r"run\.lease_seconds is called run\.heartbeat_timeout_seconds now"):
        found = ExperimentsSource("test", f"experiments://{tmp_path}").load_config("experiments/mine").config
    assert found == {
        "run": {"heartbeat_timeout_seconds": 9},
        "hydra": {"sweeper": {"params": {"score.split": "validation"}}},
    }


def test_a_name_is_taken_as_it_is_written_though_yaml_reads_a_number():
    names = ["study=2024_05", "results_dir=1e3", "model.path=007", "model.revision=12345e6", "+task.template=true"]
    quoted = [text.replace("=", '="') + '"' for text in names if text != "model.path=007"]  # which Hydra reads as text
    given = arguments.check_arguments([*names, "seed=1", "study=2024-01-01", "study=null", "study=on"])
    assert [text for text in given if '"' in text] == quoted
    assert [text for text in given if '"' not in text] == [
        "model.path=007", "seed=1", "study=2024-01-01", "study=null", "study=on",
    ]  # fmt: skip


def test_minus_m_may_stand_among_the_overrides():
    assert arguments.check_arguments(["rank=r4", "-m", "seed=0,1"]) == ["-m", "rank=r4", "seed=0,1"]


def test_a_name_that_hydra_cannot_read_is_quoted_each_by_itself_in_a_sweep(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = ["data.root=~/data", "+model.path=/models/ü,'/it#1',~/x", "results_dir=runs[1]", "cache.dir=/plain"]
    assert arguments.check_arguments(given) == [
        'data.root="/home/me/data"',
        """+model.path="/models/ü",'/it#1',"/home/me/x\"""",
        'results_dir="runs[1]"',
        "cache.dir=/plain",
    ]


def test_a_missing_experiments_folder_is_an_error(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(arguments, "experiments_folder", lambda: None)
    monkeypatch.setattr(choices, "experiments_folder", lambda: None)
    with pytest.raises(SystemExit):
        arguments.check_arguments(["+experiments=demo"])
    assert "there is no folder experiments/" in capsys.readouterr().err


def test_help_loads_no_heavy_library():
    code = """
import sys
from bench.run import main
sys.argv[1:] = ["--help"]
try:
    main()
finally:
    print([m for m in ("torch", "transformers", "pandas", "wandb") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["+model.nosuch=1"], "model.nosuch=1: nothing reads this key"),
        (["-m", "train.max_steps=100,-1"], "train.max_steps=-1: input should be greater than 0"),
        (["-m", "rank.r=8,400"], "rank.r=400 is larger than the smaller side 128 of model.layers.0.self_attn.q_proj"),
        (["model=local"], "model.path is missing: give model.path=VALUE"),
        (["model=local", "model.path=/no/such/folder"], "model.path=/no/such/folder is no model folder"),
        (["task=gsm8k", "data.root=/no/such/folder"], "data.root must hold gsm8k/SPLIT.jsonl"),
    ],
)
def test_a_run_that_cannot_be_is_one_line_on_stderr_and_leaves_nothing(tmp_path, arguments, message):
    results = tmp_path / "results"
    done = command(*arguments, f"results_dir={results}", "track=none")
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not results.exists()


def test_a_results_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for mode in ([], ["-m"]):
        done = command(*mode, f"results_dir={tmp_path / 'file' / 'results'}", "track=none")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "cannot be written" in done.stderr


def write_experiment(folder, text):
    (folder / "experiments").mkdir()
    (folder / "experiments" / "mine.yaml").write_text("# @package _global_\n" + text)


@pytest.mark.parametrize(
    ("hydra", "arguments", "message"),
    [
        (
            "mode: MULTIRUN, sweeper: {params: {method: [hu, lora_ga]}}",
            ["+experiments=mine"],
            "hydra.sweeper.params.method is a list, which Hydra does not sweep; write method: hu,lora_ga",
        ),
        ("sweeper: {params: {method: 'hu,lora_ga'}}", ["+experiments=mine"], "this experiment sweeps method: add -m"),
        ("mode: RUN", ["launch=slurm"], "launch=slurm submits the cells of a sweep: add -m"),
    ],
)
def test_what_hydra_would_ignore_without_a_word_is_refused(tmp_path, hydra, arguments, message):
    if "launch=slurm" in arguments:
        pytest.importorskip("submitit")
    write_experiment(tmp_path, f"hydra: {{{hydra}}}\n")
    done = command(*arguments, cwd=tmp_path)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_a_sweep_whose_ranks_cannot_share_a_calibration_says_which_width_would_do(compose_run):
    def hint(ranks, *overrides):
        methods = ("hu", "lora_ga", "lora_sb")
        return guard.hint([compose_run(f"method={m}", f"rank={r}", *overrides) for m in methods for r in ranks])

    apart = "lora_ga, lora_sb: some ranks need calibrations of their own; svd.rank=128 lets all share one"
    assert hint(["r8", "r64"]) == apart
    assert hint(["r8", "r64"], "svd.rank=128") is None
    assert hint(["r4", "r8", "r16"]) is None


def test_the_command_printed_for_a_failed_run_repeats_it_where_it_was(compose_run, tmp_path, monkeypatch, capsys):
    def fail(cfg, attempt):
        raise ValueError("enough")

    overrides = ("method=hu", f"results_dir={tmp_path}", f"data.root={tmp_path}", "track=none", "launch=workers")
    run = compose_run(*overrides)
    monkeypatch.setattr(job, "failures", [])
    job.execute(run, fail, "[1/1]")
    cell = PlannedCell(PlannedRun(RUN, (), shown(overrides), run.run_id), overrides, run)
    monkeypatch.setattr(guard.Sweep, "current", SimpleNamespace(planned=[cell]))
    assert guard.finish() == 1
    again = f"python -m bench.run {' '.join(overrides[:-1])} run.retry_failed=true"
    assert capsys.readouterr().err.splitlines()[-2:] == [f"{run.run_id}: ValueError: enough", f"    {again}"]


def test_values_of_an_experiment_are_those_of_its_file(expand):
    rates = expand("+experiments=learning_rate", "method=hu")
    assert {run.seed for run in rates} == {100, 101}
    assert sorted({run.train.learning_rate for run in rates}) == [
        5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1, 5e-1,
    ]  # fmt: skip
