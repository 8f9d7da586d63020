import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from records import a_config, make_record

from bench.runs.record import CorruptRecordError
from bench.study.protocol import Definition, Rates
from bench.sweep import expansion as stages
from bench.sweep.expansion import Expansion

STAGES = {
    "select": {"rate": "grid", "seed": 100, "score.split": "validation"},
    "tuned": {"rate": "tuned", "seed": "0,1"},
    "shared": {"rate": "shared", "seed": 0},
    "published": {"rate": "published", "seed": 0},
}
RATES = Rates(centre={"hu": 1e-2, "lora_ga": 1e-3}, points=3, shared="hu", published={"hu": 2e-5, "lora_ga": 1e-5})


@dataclass
class FakeRun:
    overrides: tuple

    results_dir = Path("results")
    study = "s"

    @property
    def run_id(self):
        return " ".join(self.overrides)


@pytest.fixture
def records(monkeypatch):
    """Run id -> record: what stands in the results folder."""
    found = {}

    def read(folder):
        if folder.name not in found:
            raise CorruptRecordError(str(folder))
        return found[folder.name]

    monkeypatch.setattr(stages, "read_record", read)
    return found


def expansion(arguments=(), **changes):
    definition = replace(Definition({"method": "hu,lora_ga"}, STAGES, RATES), **changes)
    return Expansion(definition, arguments, lambda overrides: FakeRun(tuple(overrides)))


def score(records, expanded, values, status="completed"):
    """Completes the runs of the grid's stage with a value for each learning rate."""
    for cell in list(expanded.cells("select")):
        value = values[cell.group[0].removeprefix("method=")].get(cell.learning_rate)
        if value is not None:
            add(records, cell, value, status)
    expanded.forget()


def add(records, cell, value, status="completed"):
    name, run_id = cell.group[0].removeprefix("method="), " ".join(cell.all_overrides)
    record = make_record(run_id, status, name, a_config(name, 100, cell.learning_rate))
    record.scores = [{"task": "t", "metric": "acc", "value": value, "higher_is_better": True}]
    records[run_id] = record


PEAKED = {"hu": {3e-3: 0.1, 1e-2: 0.9, 3e-2: 0.2}, "lora_ga": {3e-4: 0.1, 1e-3: 0.5, 3e-3: 0.5}}


def test_the_grid_gives_every_method_as_many_rates_around_its_own_centre(records):
    found = [(cell.group, cell.learning_rate) for cell in expansion().cells("select")]
    assert found == [(("method=hu",), rate) for rate in (3e-3, 1e-2, 3e-2)] + [
        (("method=lora_ga",), rate) for rate in (3e-4, 1e-3, 3e-3)
    ]


def test_a_cell_has_the_stages_settings_and_its_rate_on_its_command_line(records):
    cell = next(expansion(["+experiments=e"]).cells("select"))
    wanted = ("+experiments=e", "method=hu", "seed=100", "score.split=validation", "train.learning_rate=0.003")
    assert cell.all_overrides == wanted


def test_tuned_rates_wait_for_the_whole_grid(records):
    expanded = expansion()
    assert {(cell.learning_rate, cell.waits) for cell in expanded.cells("tuned")} == {(None, True)}
    score(records, expanded, PEAKED)
    records.pop(next(iter(records)))  # of hu
    expanded.forget()
    found = {cell.group[0]: (cell.learning_rate, cell.waits) for cell in expanded.cells("tuned")}
    assert found == {"method=hu": (None, True), "method=lora_ga": (1e-3, False)}


def test_tuned_shared_and_published_rates(records):
    expanded = expansion()
    score(records, expanded, PEAKED)
    found = {stage: [cell.learning_rate for cell in expanded.cells(stage)] for stage in STAGES if stage != "select"}
    assert found == {"tuned": [1e-2, 1e-2, 1e-3, 1e-3], "shared": [1e-2, 1e-2], "published": [2e-5, 1e-5]}
    numbered = expansion(rates=replace(RATES, shared=5e-4)).cells("shared")
    assert [cell.learning_rate for cell in numbered] == [5e-4, 5e-4]


def test_a_rate_that_failed_is_not_chosen_and_a_method_that_failed_at_all_goes_on_waiting(records):
    expanded = expansion()
    score(records, expanded, {"hu": PEAKED["hu"], "lora_ga": {}})
    score(records, expanded, {"hu": {1e-2: 0.9}, "lora_ga": PEAKED["lora_ga"]}, status="failed")
    found = {cell.group[0]: (cell.learning_rate, cell.waits) for cell in expanded.cells("tuned")}
    assert found == {"method=hu": (3e-2, False), "method=lora_ga": (None, True)}


def test_what_is_not_trained_has_no_grid_and_waits_for_nothing(records):
    expanded = expansion(params={"method": "none,hu"})
    assert {cell.group for cell in expanded.cells("select")} == {("method=hu",)}
    first = next(expanded.cells("tuned"))
    assert (first.group, first.learning_rate, first.waits) == (("method=none",), None, False)


def test_a_method_may_take_part_at_some_values_of_an_axis_only(records):
    expanded = expansion(params={"method": "hu,lora_ga", "rank": "r4,r8"}, only={"hu": {"rank": "r8"}})
    groups = [("method=hu", "rank=r8"), ("method=lora_ga", "rank=r4"), ("method=lora_ga", "rank=r8")]
    assert expanded.groups() == groups
    assert expanded._as_method(groups[1], "hu") == groups[0]  # the shared rate, though hu has no rank 4


def test_the_command_line_replaces_an_axis_and_holds_in_every_stage(records):
    expanded = expansion(["method=lora_ga", "train.max_steps=3", "seed=7"])
    assert expanded.groups() == [("method=lora_ga",)]
    for stage in STAGES:
        for cell in expanded.cells(stage):
            assert {"train.max_steps=3", "seed=7"} <= set(cell.overrides)
            assert "seed=100" not in cell.overrides


def test_equal_runs_of_a_stage_are_planned_once_and_a_refusal_is_told(records):
    def compose(overrides):
        if "method=hu" in overrides:
            raise ValueError("hu cannot")
        return FakeRun(tuple(text for text in overrides if not text.startswith("seed")))

    definition = Definition(
        {"method": "hu,lora_ga"}, STAGES | {"published": {"rate": "published", "seed": "0,1"}}, RATES
    )
    planned = [cell.planned for cell in Expansion(definition, (), compose).planned("published")]
    assert [(one.group[0], one.refused) for one in planned] == [
        ("method=hu", "hu cannot"), ("method=hu", "hu cannot"), ("method=lora_ga", None),
    ]  # fmt: skip


def test_a_record_and_a_plan_show_no_folder_of_one_machine_and_a_rerun_has_them(records):
    folders = ("data.root=/home/me/data", "results_dir=/tmp/x")
    cell = next(expansion(["+experiments=e", *folders, "run.isolate=true", "cache.dir=/c"]).planned("select"))
    assert {"data.root=FOLDER"} == {text for text in cell.planned.overrides if "FOLDER" in text}
    assert not any("/" in text for text in cell.planned.overrides)
    told, again = stages.portable(cell.overrides), stages.repeating(cell.overrides)
    assert {text for text in told if "FOLDER" in text} == {"data.root=FOLDER", "results_dir=FOLDER"}
    assert {text for text in again if "/" in text} == set(folders)
    assert stages.portable(["results_dir=../mine", "+data.root=d"]) == ("results_dir=../mine", "data.root=FOLDER")
    assert stages.portable(['results_dir="~/x"', "results_dir=\\~/x"]) == ("results_dir=FOLDER",) * 2


def test_a_grid_is_extended_beyond_the_edge_at_which_the_best_rate_lies(records):
    expanded = expansion(extend=2, params={"method": "hu"})
    rising = {"hu": {3e-3: 0.1, 1e-2: 0.2, 3e-2: 0.3, 1e-1: 0.4, 3e-1: 0.5, 1.0: 0.6}}
    launched = []
    for batch in expanded.batches(lambda: None):
        launched.append([text[-1] for text in batch])
        if len(launched) < 4:
            score(records, expanded, rising)
            for rate in (1e-1, 3e-1):  # what was launched beyond the grid
                if any(f"learning_rate={rate:g}" in text for text in itertools.chain(*launched)):
                    for cell in expanded.grid_cells(("method=hu",), rate):
                        add(records, cell, rising["hu"][rate])
    rates = [[text.partition("=")[2] for text in batch] for batch in launched]
    assert rates[:3] == [["0.003", "0.01", "0.03"], ["0.1"], ["0.3"]]  # and no third point beyond
    assert rates[3] == ["0.3", "0.3"]  # tuned
    assert len(expanded.selection(("method=hu",)).points) == 5
    assert expanded.beyond(("method=hu",)) is None


def test_a_grid_whose_best_rate_is_its_smallest_is_extended_downwards(records):
    expanded = expansion(extend=1, params={"method": "hu"})
    score(records, expanded, {"hu": {3e-3: 0.9, 1e-2: 0.2, 3e-2: 0.1}})
    assert expanded.beyond(("method=hu",)) == 1e-3
    for cell in expanded.grid_cells(("method=hu",), 1e-3):
        add(records, cell, 0.95)
    expanded.forget()
    assert [point.learning_rate for point in expanded.selection(("method=hu",)).points] == [1e-3, 3e-3, 1e-2, 3e-2]
    assert expanded.beyond(("method=hu",)) is None  # one was allowed


def test_stages_run_in_order_and_only_those_asked_for(records):
    expanded = expansion(run="select")
    assert len(list(expanded.batches(lambda: None))) == 1
    assert expanded.definition.asked == ("select",)


@pytest.mark.parametrize(
    ("sweeper", "message"),
    [
        ({"stages": {"a": {"rate": "best"}}, "params": {}, "rates": {"centre": {}}}, "stages.a.rate=best; choose from"),
        (
            {"stages": STAGES, "params": {}, "rates": {"centre": {}}, "run": "select,final"},
            "hydra.sweeper.run=final: the stages are select, tuned, shared, published",
        ),
    ],
)
def test_a_wrong_definition_is_one_line(sweeper, message):
    from omegaconf import OmegaConf

    with pytest.raises(ValueError, match=message):
        Definition.from_config(OmegaConf.create(sweeper))


def test_a_method_without_a_centre_is_named(records):
    with pytest.raises(ValueError, match=r"rates\.centre has nothing for method=eva"):
        list(expansion(params={"method": "eva"}).cells("select"))
    with pytest.raises(ValueError, match="shared is missing"):
        list(expansion(rates=replace(RATES, shared=None)).cells("shared"))
    with pytest.raises(ValueError, match="shared=eva: it is no method of this sweep"):
        list(expansion(rates=replace(RATES, shared="eva")).cells("shared"))
