"""The commands, in processes of their own, with files outside the package; and what they say of a wrong word."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_pages import rows_after

import bench.__main__ as door
from bench.new.files import write
from bench.process.config_dirs import VARIABLE

ROOT = Path(__file__).parents[1]
SHORT = (
    "train.max_steps=2 train.learning_rate=1e-3 measure=none track=none retention.num_tokens=0 score.merged_samples=0"
).split()


def command(name, *arguments, cwd):
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE} | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", f"bench.{name}", *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What `bench.new` writes, an experiment, and the runs of its sweep by workers."""
    made = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "")
        write("method", "my_thing", made)
        write("task", "my_sums", made)
    (made / "conf" / "experiments").mkdir()
    swept = {"hydra": {"mode": "MULTIRUN", "sweeper": {"params": {"method": "hu,my_thing"}}}, "defaults": []}
    swept["defaults"] = [{"override /task": "my_sums"}]
    (made / "conf" / "experiments" / "mine.yaml").write_text(yaml.safe_dump(swept))
    done = command("run", "-m", "--config-dir", "conf", "+experiments=mine", "data.root=data", *SHORT, cwd=made)
    assert done.returncode == 0, done.stderr
    return made


def test_a_sweep_by_workers_finds_method_task_data_metric_and_experiment(folder):
    records = [json.loads(path.read_text()) for path in (folder / "runs" / "mine").glob("*/record.json")]
    assert {record["label"] for record in records} == {"LoRA", "MyThing"}
    for record in records:
        assert {score["metric"] for score in record["scores"]} >= {"exact_match", "begins_alike"}
        assert record["command"].startswith("python -m bench.run --config-dir FOLDER +experiments=mine ")
        assert str(folder) not in record["command"]


def test_a_plan_a_status_and_a_report_of_it(folder):
    planned = command("plan", "-cd", "conf", "mine", "data.root=data", *SHORT, cwd=folder)
    assert f"start: python -m bench.run --config-dir {folder / 'conf'} -m +experiments=mine" in planned.stdout
    assert planned.returncode == 0, planned.stderr
    status = command("status", "runs/mine/", "--config-dir", "conf", cwd=folder)
    assert "|      2 |      2 |     0 |" in status.stdout, status.stderr
    report = command("report", "runs/mine", "--config-dir", "conf", cwd=folder)
    assert "| MyThing" in report.stdout, report.stderr


def test_methods_lists_it(folder):
    listed = command("methods", "--config-dir", "conf", cwd=folder)
    assert any(line.startswith("| my_thing") for line in listed.stdout.splitlines()), listed.stderr


def test_help_explains_every_key_and_lists_the_folders_choices(folder):
    printed = command("run", "-h", "--config-dir", "conf", cwd=folder)
    assert printed.returncode == 0, printed.stderr
    lines = printed.stdout.splitlines()
    for key, default, *_ in rows_after("| key | default |"):
        place = next(index for index, line in enumerate(lines) if line.startswith(f"{key.strip('`')}={default}"))
        assert lines[place + 1].startswith("    "), key
    assert "my_thing" in next(line for line in lines if line.startswith("method: "))
    assert "$LORA_INIT_BENCH_CACHE" in printed.stdout
    assert "$$" not in printed.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train.max_step=3"],
            "nothing reads train.max_step (did you mean train.max_steps?); known there are ",
        ),
        (["-m", "method.distributoin=gaussian,kaiming_uniform"], "(did you mean method.distribution?)"),
        (["seed=range(0,3)"], "Sweep parameters 'seed=range(0,3)' requires --multirun"),
        (["-m", "seed=interval(0,1)"], "seed=interval(0,1): an interval has no values to enumerate; write range("),
        (["-m", "+experiments=mine", "hydra.sweeper.run=slect"], "hydra.sweeper"),
    ],
)
def test_what_hydra_refuses_is_one_line(folder, arguments, message):
    done = command("run", "--config-dir", "conf", *arguments, cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr


def test_a_study_that_is_not_there_is_answered_with_the_likely_one(folder):
    for name in ("status", "report"):
        done = command(name, "mina", cwd=folder)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "no study 'mina' in runs or results (did you mean mine?); there are: mine" in done.stderr


# The console script


def test_it_lists_its_commands_with_a_line_each(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lora-init-bench", "--help"])
    assert door.main() == 0
    lines = capsys.readouterr().out.splitlines()
    for word in door.COMMANDS:
        (line,) = (line for line in lines if line.startswith(f"  {word} "))
        assert len(line) > 20
        assert "`" not in line


def test_it_says_its_version_and_refuses_an_unknown_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lora-init-bench", "--version"])
    assert door.main() == 0
    assert capsys.readouterr().out == f"lora-init-bench {door.__version__}\n"
    monkeypatch.setattr(sys, "argv", ["lora-init-bench", "repot"])
    assert door.main() == 2
    assert "no command repot (did you mean report?); choose from run, plan" in capsys.readouterr().err


def test_a_command_gets_the_words_behind_it_and_the_working_directory_on_its_path(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "argv", ["lora-init-bench", "status", "mine"])
    assert door.main() == 0
    assert "mine:" in capsys.readouterr().out
    assert sys.path[0] == str(folder)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("lora-init-bench st", "status"), ("lora-init-bench run method=lora_g", "method=lora_ga")],
)
def test_bash_is_offered_commands_and_behind_run_groups_and_keys(folder, typed, offered):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COMP_LINE": typed}
    words = [sys.executable, "-m", "bench", "-sc", "query=bash"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=folder, env=environment)
    assert offered in done.stdout.split()


def test_the_script_is_declared_and_each_command_has_a_main():
    import importlib
    import tomllib

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"lora-init-bench": "bench.__main__:main"}
    assert all(callable(importlib.import_module(module).main) for module in door.COMMANDS.values())
