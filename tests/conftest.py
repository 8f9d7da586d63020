"""Fixtures that compose configurations and run cells in this process."""

import copy
import functools
import gc
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["LORA_INIT_BENCH_CACHE"] = tempfile.mkdtemp(prefix="lora-init-bench-test-")  # not the user's
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from bench.runs.folder import RunFolder
from bench.runs.record import read_record, read_rows

# Four steps, four scored items: what can be shown on so little is shown on it.
SHORT = (
    "rank=r4",
    "train.max_steps=4",
    "train.batch_size=4",
    "train.eval_steps=2",
    "train.warmup_steps=2",
    "measure.alignment_steps=2",
    "measure.curvature_rows=0",
    "task.eval_samples=8",
    "task.calibration_samples=8",
    "task.calibration_batch_size=4",
    "task.probe_samples=4",
    "score.limit=4",
    "retention.num_tokens=0",
    "track=none",
)


# Slow is what runs a cell, starts a process, draws, opens a browser, or composes or encodes much: not in `make check`.
SLOW_FIXTURES = {"run_cell", "run_cell_in_module"}
SLOW_FOLDERS = {"browser", "end_to_end", "faults", "fuzz", "zoo"}
SLOW_MODULES = {
    "contract/test_studies", "parity/test_parameter_counts", "systems/test_training", "systems/test_xgblora",
    "test_committed", "test_compose", "test_embedded", "test_figures", "test_launch", "test_listing", "test_mirror",
    "test_notebooks", "test_own_commands", "test_parallel", "test_parallel_training", "test_progress",
    "test_report_planted", "test_report_scale", "test_sweep", "test_tasks", "test_track", "test_workers",
}  # fmt: skip
SLOW_TESTS = {  # of modules whose other tests are fast
    "test_a_resumed_run_keeps_the_rate_and_does_not_measure_again",
    "test_estimates_from_sizes_come_near_the_committed_records",
    "test_every_task_is_answered_as_under_hflm",
    "test_the_items_are_those_whose_digest_is_known_and_no_split_has_anothers",
    "test_what_is_learnt_is_what_is_scored_token_for_token",
    "test_what_the_published_and_the_generated_rows_hold_is_what_is_declared",
    "test_generated_rows_are_as_many_and_as_long_as_the_real_ones",
    "test_every_experiment_expands_into_valid_runs_without_running_one",
    "test_its_table_of_models_has_every_model_under_its_kind",
    "test_its_table_of_tasks_has_a_row_for_every_task_and_says_which_an_encoder_can_do",
    "test_no_key_no_name_and_no_home_reaches_a_record_a_log_or_wandbs_files",
    "test_a_figure_is_the_reports_of_each_methods_best_row_or_of_every_row",
    "test_importing_bench_imports_neither_pandas_nor_torch_and_keeps_its_version",
    "test_several_tasks_are_scored_apart",
    "test_the_same_runs_in_two_studies_are_one_row_and_one_hypothesis",
    "test_the_command_writes_into_a_folder_of_its_own_and_leaves_both_studies_as_they_are",
    "test_the_recipes_of_the_page_run",
    "test_the_command_line_needs_no_torch_and_says_what_is_wrong_in_a_line",
    "test_two_arms_of_one_method_are_not_called_different_for_their_chosen_rates",
}


def pytest_collection_modifyitems(items):
    for item in items:
        place = item.path.relative_to(Path(__file__).parent).with_suffix("")
        by_place = place.parts[0] in SLOW_FOLDERS or place.as_posix() in SLOW_MODULES
        if by_place or item.originalname in SLOW_TESTS or SLOW_FIXTURES & {*item.fixturenames}:
            item.add_marker("slow")


def pytest_collection_finish():
    """What the imports made stays: the garbage collections that each training asks for need not look at it again."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests():
    """Takes away what the tests' calibrations have left."""
    yield
    shutil.rmtree(os.environ["LORA_INIT_BENCH_CACHE"], ignore_errors=True)


def composed(*overrides):
    """The resolved configuration, a copy of its own: Hydra takes 0.1 s or more, and tests ask for the same again."""
    return copy.deepcopy(_composed(*overrides))


@functools.cache
def _composed(*overrides):
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    import bench.sweep.guard  # noqa: F401  its resolvers
    from bench.study.folders import CONF

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=list(overrides))
    values = OmegaConf.to_container(config, resolve=True)
    values["study"] = values["study"] or "adhoc"
    return values


def composed_run(*overrides):
    from bench.config import Run

    return Run.from_config(composed(*overrides))


@functools.cache
def composed_method(*overrides):
    return composed_run(*overrides).method


@pytest.fixture(scope="session")
def compose():
    """Overrides -> the resolved configuration, as plain containers."""
    return composed


@pytest.fixture(scope="session")
def compose_run():
    """Overrides -> the validated Run."""
    return composed_run


@pytest.fixture(scope="session")
def compose_task():
    """A task's name -> the task, of a run with a model that can do it."""

    def task(name):
        from bench.tasks.data import Dataset

        found = composed(f"task={name}")["task"]["datasets"].values()
        images = any(Dataset(**one).is_of_images for one in found)
        return composed_run(f"task={name}", *(["model=tiny_vit"] if images else [])).task

    return task


@pytest.fixture(scope="session")
def compose_method():
    """A method's name and overrides -> the method; composed once, because methods cannot change."""
    return lambda name, *overrides: composed_method(f"method={name}", *overrides)


@pytest.fixture
def expand(monkeypatch):
    """An experiment's command line -> the Runs that its sweep would do."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    from bench.study.folders import CONF
    from bench.sweep import guard, sweep

    def expanded(*overrides):
        monkeypatch.setattr(sweep.Sweep, "_write", lambda self, folder, plan: None)
        monkeypatch.setattr(sweep, "check_folder", lambda run: None)
        monkeypatch.setattr(sweep.Sweep, "_check_there", lambda self: None)  # no model of the Hub is
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", overrides=list(overrides), return_hydra_config=True)
            config.hydra.overrides.task = list(overrides)
            try:
                guard.Guard().on_multirun_start(config)
            finally:
                HydraConfig.instance().cfg = None
        assert not GlobalHydra.instance().is_initialized()
        return sweep.Sweep.current.runs

    return expanded


@dataclass
class Cell(RunFolder):
    """The folder of a finished run."""

    path: Path

    def rows(self, name):
        return read_rows(self.path / name)


def _runner(root):
    from bench.run import run
    from bench.runs.job import execute

    count = iter(range(10_000))

    def run_cell(*overrides):
        cfg = replace(composed_run(*SHORT, *overrides), results_dir=root / str(next(count)))
        execute(cfg, run, "[1/1]")
        cell = Cell(cfg.results_dir / cfg.study / cfg.run_id)
        return read_record(cell.path), cell

    return run_cell


@pytest.fixture
def run_cell(tmp_path):
    """Overrides -> record and folder of a short run."""
    return _runner(tmp_path)


@pytest.fixture(scope="module")
def run_cell_in_module(tmp_path_factory):
    """The same, for runs that the tests of a module share."""
    return _runner(tmp_path_factory.mktemp("cells"))


@pytest.fixture
def tiny_model():
    """Makes equal random Llamas."""
    from models import tiny_llama

    return tiny_llama


@pytest.fixture
def batch():
    """Makes a batch of random tokens."""
    from models import random_batch

    return random_batch
