import importlib.util
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import SHORT

from bench.runs.record import COMPLETED, FAILED, read_record
from bench.study.folders import CONF
from bench.sweep import arguments
from bench.sweep import slurm as cluster

CLUSTER = importlib.util.find_spec("submitit")
needs_cluster = pytest.mark.skipif(not CLUSTER, reason="needs the extra cluster")
TARGETS = {
    "basic": "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "workers": "hydra_plugins.lora_init_bench.WorkersLauncher",
    "slurm": "hydra_plugins.lora_init_bench_slurm.SlurmArrays",
}


def composed_launcher(*overrides):
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    import bench.sweep.guard  # noqa: F401  its launchers

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=list(overrides), return_hydra_config=True)
        return OmegaConf.to_container(config.hydra.launcher, resolve=True)


@needs_cluster
@pytest.mark.parametrize("choice", arguments.choices(CONF / "launch"))
def test_every_launcher_composes(choice):
    assert composed_launcher(f"launch={choice}")["_target_"] == TARGETS[choice]
    assert composed_launcher()["_target_"] == TARGETS["workers"]


def test_former_launchers_are_workers(monkeypatch):
    for given in (["launch=process", "hydra.launcher.jobs=2"], ["launch=joblib", "hydra.launcher.n_jobs=2"]):
        with pytest.warns(UserWarning, match="is called"):
            assert arguments.check_arguments(given) == ["launch=workers", "hydra.launcher.jobs=2"]


def test_under_torchrun_whose_processes_do_each_cell_together_there_are_no_workers(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert arguments.check_arguments(["-m", "seed=0,1"]) == ["-m", "seed=0,1", "launch=basic"]
    assert arguments.check_arguments(["-m", "launch=basic"]) == ["-m", "launch=basic"]
    with pytest.raises(SystemExit):
        arguments.check_arguments(["-m", "launch=workers"])
    assert "the processes of torchrun do each cell together" in capsys.readouterr().err


def test_a_launcher_that_is_not_installed_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(arguments, "version", lambda package: None)
    arguments.check_arguments(["-m", "launch=basic"])
    arguments.check_arguments(["-m", "launch=workers"])
    with pytest.raises(SystemExit):
        arguments.check_arguments(["-m", "launch=slurm"])
    error = capsys.readouterr().err
    assert "pip install 'lora-init-bench[cluster]'" in error
    assert error.count("\n") == 1


@needs_cluster
@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("workers,basic", "a sweep has one launcher"),
        ("submitit_local", "launch=submitit_local is gone: launch=workers does runs in processes of this machine"),
    ],
)
def test_a_launcher_takes_settings_and_is_not_swept_over(capsys, choice, message):
    arguments.check_arguments(["-m", "launch=slurm", "hydra.launcher.partition=gpu", "seed=0,1"])
    with pytest.raises(SystemExit):
        arguments.check_arguments(["-m", f"launch={choice}"])
    assert message in capsys.readouterr().err


# --- sweeps of two cells, of which one diverges


def sweep(folder, *overrides, cells=("train.learning_rate=1e-3,1e30",)):
    """Short cells, from a folder of their own, into a relative results_dir."""
    short = [text for text in SHORT if not text.startswith("score.limit")]
    command = [sys.executable, "-m", "bench.run", "-m", *short, *cells, "score.limit=2", "results_dir=made", *overrides]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def records(folder):
    return {path.parent.name: read_record(path.parent) for path in folder.glob("made/adhoc/[!.]*/record.json")}


def learning_rate(record):
    return record.config.train.learning_rate


@pytest.mark.faults
@pytest.mark.parametrize("choice", [["launch=basic"], ["hydra.launcher.jobs=2"], ["run.isolate=true"]])
def test_a_cell_that_fails_stops_no_other_and_is_named(tmp_path, choice):
    done = sweep(tmp_path, *choice)
    by_status = {record.status: record for record in records(tmp_path).values()}
    assert set(by_status) == {COMPLETED, FAILED}, done.stderr
    assert learning_rate(by_status[COMPLETED]) == 1e-3
    assert done.returncode == 1
    assert by_status[FAILED].run_id in done.stderr.splitlines()[-2]  # the last two lines: what failed, and how to again
    assert by_status[COMPLETED].run_id not in done.stderr
    assert f"{by_status[COMPLETED].run_id}: eval loss" in done.stdout
    assert {r.environment.hardware.num_threads for r in by_status.values()} == {1}  # as the tests' environment


# --- Slurm, played by scripts: what it is asked for, and that nobody waits for a job that is gone


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """sbatch keeps the script; squeue knows the jobs for as long as there is a file `queue`."""
    scripts = {
        "sbatch": f'cp "$1" {tmp_path}/submitted-$(ls {tmp_path}/submitted-* 2>/dev/null | wc -l).sh\n'
        "echo Submitted batch job 12",
        "srun": "",
        "scancel": f"rm {tmp_path}/queue; echo $* > {tmp_path}/cancelled",
        "squeue": f"cat {tmp_path}/queue 2>/dev/null || true",
    }
    (tmp_path / "bin").mkdir()
    for name, text in scripts.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.01)
    return tmp_path


def launched(folder, cells, *overrides):
    settings = composed_launcher("launch=slurm", *overrides)
    settings.pop("_target_")
    settings["submitit_folder"] = str(folder / "jobs" / "%j")
    cluster.launch(sorted, [[]] * cells, 0, settings)


@needs_cluster
def test_a_slurm_that_takes_no_job_is_one_line(slurm, capsys):
    said = "sbatch: error: invalid partition specified: nosuch"
    (slurm / "bin" / "sbatch").write_text(f"#!/bin/sh\necho {said} >&2\nexit 1\n")
    with pytest.raises(SystemExit):
        launched(slurm, 2, "hydra.launcher.partition=nosuch")
    error = capsys.readouterr().err.splitlines()
    assert error[-1] == f"error: Slurm takes no job: {said}"


@needs_cluster
def test_slurm_is_asked_for_what_the_configuration_says(slurm, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    launched(
        slurm, 6, "hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=1", "hydra.launcher.array_parallelism=4"
    )
    script = (slurm / "submitted-0.sh").read_text().splitlines()
    for line in (
        "--partition=gpu", "--gpus-per-node=1", "--array=0-5%4", "--time=240", "--cpus-per-task=2", "--mem=16GB",
        "--signal=USR2@120", "--requeue", "--job-name=lora-init-bench", "--open-mode=append",
    ):  # fmt: skip
        assert f"#SBATCH {line}" in script
    assert "export OMP_NUM_THREADS=3" in script
    assert not any("account" in line or "None" in line for line in script)


@needs_cluster
def test_without_a_choice_of_threads_a_job_has_those_it_asks_for(slurm, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    launched(slurm, 2, "hydra.launcher.cpus_per_task=7")
    assert "export OMP_NUM_THREADS=7" in (slurm / "submitted-0.sh").read_text()


@needs_cluster
def test_a_sweep_above_the_size_of_an_array_is_several(slurm):
    launched(slurm, 5, "hydra.launcher.array_size=2")
    texts = [path.read_text() for path in sorted(slurm.glob("submitted-*.sh"))]
    assert ["--array=0-1%2" in text for text in texts] == [True, True, False]  # the last is a single job
    assert len(texts) == 3


@needs_cluster
def test_nobody_waits_for_jobs_that_have_left_the_queue_without_a_word(slurm, capsys):
    began = time.monotonic()
    launched(slurm, 2)
    assert time.monotonic() - began < 10
    assert capsys.readouterr().err.count("has ended before its cell") == 2


@needs_cluster
def test_stopping_the_sweep_cancels_its_jobs(slurm, monkeypatch, capsys):
    (slurm / "queue").write_text("12_0\n12_1\n")
    answered = []

    def interrupted(array):
        answered.append(array)
        if len(answered) == 2:
            signal.raise_signal(signal.SIGINT)
        return {"12_0", "12_1"} if (slurm / "queue").exists() else set()

    monkeypatch.setattr(cluster, "queued", interrupted)
    with pytest.raises(SystemExit) as stopped:
        launched(slurm, 2)
    assert stopped.value.code == 130
    assert Path(slurm / "cancelled").read_text() == "12\n"
    assert "the same command resumes them" in capsys.readouterr().err
