"""A sweep's cells are the runs that Hydra composes from the same overrides, one by one."""

import shlex

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from bench.config import Run
from bench.study.folders import CONF
from bench.sweep import guard
from bench.sweep.compose import as_given, product
from bench.sweep.sweep import Sweep
from synthetic import make_study


@pytest.fixture
def swept():
    """Arguments -> the sweep and Hydra's config loader."""
    with initialize_config_dir(str(CONF), version_base="1.3"):

        def open_sweep(*arguments):
            config = GlobalHydra.instance().config_loader().load_configuration("config", [*arguments], RunMode.MULTIRUN)
            return Sweep(config, arguments)

        yield open_sweep
    HydraConfig.instance().cfg = None


SWEEPS = {
    "a study": ["+experiments=lora_ga/llama2_tiny", "method=hu,lora_ga", "hydra.sweeper.run=select"],
    "an experiment": ["+experiments=schemes", "method=lora_ga,none", "seed=0"],
    "values": ["train.learning_rate=1e-3,5e-2", "rank=r4", "seed=0,7", "adapter.use_dora=true", "score.limit=null"],
    "two choices that set one key": ["method=hu,full_ft", "train=default,demo"],
    "lengths and lists": ["task=gsm_tiny,glue_tiny", "task.max_length=64,96", "model.target_modules=[q_proj]"],
    "interpolations of swept keys": ["rank=r4,r16", "rank.lora_alpha=${rank.r},8", 'train.max_steps="${rank.r}"'],
    "interpolations": ["seed=3,4", "study=s_${task.name}_${seed}"],
    "one key twice": ["seed=1", "train.max_steps=5", "++train.max_steps=6"],
}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_cell_is_the_run_that_hydra_composes(name, swept):
    sweep = swept(*[text for text in SWEEPS[name] if "${" not in text and not text.startswith("++")])
    cells = [cell.overrides for cell in sweep.cells()][:6] if sweep.expansion else product(SWEEPS[name])
    for cell in cells:
        found = sweep.compose(cell)
        config = OmegaConf.to_container(compose("config", overrides=list(cell)), resolve=True)
        expected = Run.from_config(config | {"study": config["study"] or found.study})
        assert (found, found.run_id, found.to_dict()) == (expected, expected.run_id, expected.to_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train.max_stepz=3,4"],
            r"nothing reads train\.max_stepz \(did you mean train\.max_steps\?\); known there",
        ),
        (["seed=0,-1"], "seed=-1"),
        (["model=tiny_llama,local"], "model.path is missing: give model.path=VALUE"),
        (["train.learning_rate='${by_method:{eva: 1e-3}}'"], "by_method has nothing for method=hu"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_line(arguments, message, swept):
    sweep, cells = swept(), product(arguments)
    with pytest.raises(ValueError, match=message):
        list(map(sweep.compose, cells))


def test_what_a_command_line_interpolates_stays_as_written_until_a_cell_is_composed(tmp_path, monkeypatch):
    given = ["rank=r4,r16", "rank.lora_alpha=${rank.r}", 'study="s_${rank.name}"', f"results_dir={tmp_path}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        guard.Guard().on_multirun_start(loader.load_configuration("config", given, RunMode.MULTIRUN))
        sweep = Sweep.current
        assert [(run.rank.lora_alpha, run.study) for run in sweep.runs] == [(4, "s_r4"), (16, "s_r16")]
        ((first, _),) = sweep.batches()  # what a launcher gets
        assert first == [given[0].removesuffix(",r16"), *given[1:]]
        config, run = loader.load_configuration("config", first, RunMode.RUN), sweep.compose(first)
        assert as_given(config.hydra) == first
        for composed in (config, sweep.compose.config(first)):  # of a single run, and of a cell that a worker gets
            command = guard.origin(first, composed, run).command
            assert shlex.split(command)[3:] == [*first[:-1], "results_dir=FOLDER"]
    HydraConfig.instance().cfg = None


def test_hydra_composes_once_for_all_values_of_the_same_choices(swept, monkeypatch):
    sweep = swept()
    loader, count = type(GlobalHydra.instance().config_loader()), []
    load = loader.load_sweep_config
    monkeypatch.setattr(loader, "load_sweep_config", lambda *given: count.append(1) or load(*given))
    cells = product(["method=hu,eva", "rank=r4,r8", "seed=0,1,2", "train.learning_rate=1e-3,1e-2"])
    assert len({sweep.compose(cell).run_id for cell in cells}) == len(cells) == 24
    assert len(count) == 4


def test_the_records_of_a_synthetic_study_are_those_of_the_cells_it_names(tmp_path, swept):
    cells = make_study(tmp_path / "schemes", 7)
    sweep = swept("+experiments=schemes")
    found = {sweep.compose(("+experiments=schemes", *cell.overrides)).run_id for cell in cells}
    assert found == {path.parent.name for path in tmp_path.glob("schemes/*/record.json")}


def test_of_two_overrides_of_one_key_the_last_counts_and_an_interval_is_refused():
    assert product(["method=glob(lora_x*)", "seed=1"]) == [("method=lora_xs", "seed=1")]
    assert product(["seed=1,2", "rank=r4", "seed=range(0,2)"]) == [("seed=0", "rank=r4"), ("seed=1", "rank=r4")]
    with pytest.raises(ValueError, match=r"an interval has no values to enumerate; write range\(START,STOP,STEP\)"):
        product(["seed=interval(0,1)"])
