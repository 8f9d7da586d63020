import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from records import a_config, make_record

from bench.runs.record import CorruptRecordError
from bench.study.plan_file import StudyPlan
from bench.study.protocol import Definition, Rates
from bench.sweep import expansion as stages
from bench.sweep.expansion import Expansion

STAGES = {
    "search": {"rate": "search", "seed": 100, "score.split": "validation"},
    "select": {"rate": "select", "seed": "100,101", "score.split": "validation"},
    "tuned": {"rate": "tuned", "seed": "0,1"},
    "shared": {"rate": "shared", "seed": 0},
    "published": {"rate": "published", "seed": 0},
}
RATES = Rates(centre={"hu": 1e-2, "lora_ga": 1e-3}, points=5, shared="hu", published={"hu": 2e-5, "lora_ga": 1e-5})
OPTIMA = {"hu": 1e-2, "lora_ga": 1.8e-3}


@dataclass
class FakeRun:
    overrides: tuple

    results_dir = Path("results")
    study = "s"
    train = SimpleNamespace(max_steps=80)

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


def loss(method, rate):
    return math.exp((math.log10(rate) - math.log10(OPTIMA[method])) ** 2)


def add(records, cell, value=None, status="completed"):
    name, run_id = cell.group[0].removeprefix("method="), " ".join(cell.all_overrides)
    rate = 1e-3 if cell.learning_rate == "auto" else cell.learning_rate
    seed = next(int(text.removeprefix("seed=")) for text in cell.overrides if text.startswith("seed="))
    record = make_record(run_id, status, name, a_config(name, seed, rate))
    steps = [text.removeprefix("train.max_steps=") for text in cell.overrides if text.startswith("train.max_steps=")]
    record.config.train.max_steps = int(steps[0]) if steps else 80
    value = loss(name, rate) if value is None else value
    record.scores = [{"task": "t", "metric": "loss", "value": value, "higher_is_better": False}]
    records[run_id] = record


def due(expanded, stage):
    return [cell for cell in expanded.cells(stage) if not cell.waits]


def go_on(records, expanded, stage, status=lambda cell: "completed"):
    """Completes what is due of a stage of the search, round by round; the number of rounds."""
    for rounds in itertools.count():
        left = [cell for cell in due(expanded, stage) if " ".join(cell.all_overrides) not in records]
        if not left:
            return rounds
        for cell in left:
            add(records, cell, status=status(cell))
        expanded.forget()


def searched(records, expanded, **given):
    for stage in ("search", "select"):
        go_on(records, expanded, stage, **given)


def tried(expanded, stage, group=("method=hu",)):
    found = [cell for cell in due(expanded, stage) if cell.group == group]
    return [(next((t for t in cell.overrides if "max_steps" in t), None), cell.learning_rate) for cell in found]


def test_the_search_begins_with_three_rates_of_every_method_around_its_own_centre_with_a_quarter_of_the_steps(records):
    found = [(cell.group, cell.learning_rate) for cell in due(expansion(), "search")]
    assert found == [(("method=hu",), rate) for rate in (3.2e-3, 1e-2, 3.2e-2)] + [
        (("method=lora_ga",), rate) for rate in (3.2e-4, 1e-3, 3.2e-3)
    ]
    assert {cell.overrides[-2:] for cell in due(expansion(), "search")} == {
        ("train.max_steps=20", "measure.curvature_rows=0")  # the centre is known
    }


def test_the_search_goes_on_where_its_records_point_and_the_selection_follows(records):
    expanded = expansion()
    assert go_on(records, expanded, "search") == 4  # three rates; around or beyond the best; what is left; half
    assert tried(expanded, "search") == [
        *(("train.max_steps=20", rate) for rate in (3.2e-3, 1e-2, 3.2e-2, 5.6e-3, 1.8e-2)),
        *(("train.max_steps=40", rate) for rate in (5.6e-3, 1e-2, 1.8e-2)),
    ]
    assert not due(expansion(run="search"), "tuned") or all(cell.waits for cell in expanded.cells("tuned"))
    go_on(records, expanded, "select")
    assert tried(expanded, "select") == [(None, rate) for rate in (5.6e-3, 1e-2, 1.8e-2) for _ in "ab"]  # two seeds
    found = expanded.selection(("method=hu",))
    assert (found.best.learning_rate, found.at_edge, found.num_fits) == (1e-2, None, 5 + 3 + 3 * 2)
    assert [rung.steps for rung in found.rungs] == [20, 40]


def test_every_method_has_as_many_fits(records):
    expanded = expansion()
    searched(records, expanded)
    assert len({expanded.selection(group).num_fits for group in expanded.groups()}) == 1


def test_what_may_follow_is_planned_with_it_so_that_a_plan_counts_the_whole_search(records):
    expanded = expansion()
    before = [len([cell for cell in expanded.cells(stage) if cell.group == ("method=hu",)]) for stage in STAGES]
    assert before == [5 + 3, 3 * 2, 2, 1, 1]
    assert len(due(expanded, "search")) == 2 * 3
    planned = [cell.planned for cell in expansion().planned("select")]
    assert {one.run_id for one in planned} == {None}
    assert len(set(planned)) == len(planned) == 12
    searched(records, expanded)
    after = [len([cell for cell in expanded.cells(stage) if cell.group == ("method=hu",)]) for stage in STAGES]
    assert after == before


def test_a_selection_whose_best_rate_is_its_smallest_or_largest_is_extended_from_the_reserve(records):
    expanded = expansion()
    go_on(records, expanded, "search")
    OPTIMA["hu"] = 3.2e-2  # with the whole budget it is another one
    try:
        assert go_on(records, expanded, "select") == 3
        rates = [rate for _, rate in tried(expanded, "select")]
        assert list(dict.fromkeys(rates)) == [5.6e-3, 1e-2, 1.8e-2, 3.2e-2, 5.6e-2]
        assert expanded.selection(("method=hu",)).at_edge is None
    finally:
        OPTIMA["hu"] = 1e-2
    assert len(rates) == 2 * (3 + RATES.reserve)


def test_a_cell_has_the_stages_settings_and_its_rate_on_its_command_line(records):
    cell = next(expansion(["+experiments=e"]).cells("search"))
    wanted = (
        *("+experiments=e", "method=hu", "seed=100", "score.split=validation"),
        *("train.max_steps=20", "measure.curvature_rows=0", "train.learning_rate=0.0032"),
    )
    assert cell.all_overrides == wanted


def test_tuned_rates_wait_for_the_whole_search(records):
    expanded = expansion()
    assert {(cell.learning_rate, cell.waits) for cell in expanded.cells("tuned")} == {(None, True)}
    searched(records, expanded)
    records.pop(next(run_id for run_id, one in records.items() if one.label == "hu"))
    again = expansion()
    found = {cell.group[0]: (cell.learning_rate, cell.waits) for cell in again.cells("tuned")}
    assert found == {"method=hu": (None, True), "method=lora_ga": (1.8e-3, False)}


def test_tuned_shared_and_published_rates(records):
    expanded = expansion()
    searched(records, expanded)
    found = {stage: [cell.learning_rate for cell in expanded.cells(stage)] for stage in list(STAGES)[2:]}
    assert found == {"tuned": [1e-2, 1e-2, 1.8e-3, 1.8e-3], "shared": [1e-2, 1e-2], "published": [2e-5, 1e-5]}
    numbered = expansion(rates=replace(RATES, shared=5e-4)).cells("shared")
    assert [cell.learning_rate for cell in numbered] == [5e-4, 5e-4]


def test_a_rate_that_failed_is_not_chosen_and_a_method_that_failed_at_all_goes_on_waiting(records):
    def status(cell):
        failed = cell.group == ("method=lora_ga",) or cell.learning_rate > 1e-2
        return "failed" if failed else "completed"

    expanded = expansion()
    searched(records, expanded, status=status)
    found = {cell.group[0]: (cell.learning_rate, cell.waits) for cell in expanded.cells("tuned")}
    assert found == {"method=hu": (1e-2, False), "method=lora_ga": (None, True)}


def test_a_centre_from_the_curvature_is_found_by_the_first_run_of_each_method_which_is_one_of_its_fits(records):
    expanded = expansion(rates=replace(RATES, centre="auto"))
    assert [cell.all_overrides[-2:] for cell in due(expanded, "search")] == [
        ("train.max_steps=20", "train.learning_rate=auto")
    ] * 2
    assert len(list(expanded.cells("search"))) == 2 * (5 + 3)
    searched(records, expanded)  # auto is 1e-3 here
    assert tried(expanded, "search")[:3] == [("train.max_steps=20", rate) for rate in ("auto", 3.2e-4, 3.2e-3)]
    assert expanded.selection(("method=hu",)).num_fits == 5 + 3 + 3 * 2


def test_what_is_not_trained_has_no_grid_and_waits_for_nothing(records):
    expanded = expansion(params={"method": "none,hu"})
    assert {cell.group for cell in expanded.cells("search")} == {("method=hu",)}
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
        searches = expanded.definition.stages[stage]["rate"] in ("search", "select")
        for cell in expanded.cells(stage):
            assert "train.max_steps=3" in cell.overrides
            assert ("seed=7" in cell.overrides) != searches


def planned_by(*arguments):
    expanded = expansion(arguments)
    cells = [cell for stage in STAGES for cell in expanded.planned(stage)]
    return expanded, cells, StudyPlan(None, tuple(STAGES), tuple(cell.planned for cell in cells))


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (("train.max_steps=60",), ()),
        ((), ("train.max_steps=60",)),
        (("train.max_steps=60", "rank=r8"), ("train.max_steps=90", "rank=r8")),
    ],
)
def test_a_row_that_the_study_has_with_other_settings_is_refused_with_both_named(records, first, then):
    _, _, older = planned_by(*first)
    expanded, cells, _ = planned_by(*then)
    there, here = (next((text for text in own if "steps" in text), "none of these") for own in (first, then))
    with pytest.raises(ValueError, match=rf"study s has a sweep of other settings \({there}; here {here}\)"):
        expanded.refuse_other_settings(older, cells)


@pytest.mark.parametrize("then", [("method=lora_ga",), ("method=lora_ga,hu",), ("seed=7",)])
def test_other_methods_and_seeds_join_a_study(records, then):
    _, _, older = planned_by()
    expanded, cells, _ = planned_by(*then)
    expanded.refuse_other_settings(older, cells)


def test_settings_that_change_no_run_join_a_study(records, monkeypatch):
    told = property(lambda run: " ".join(text for text in run.overrides if not text.startswith("track=")))
    monkeypatch.setattr(FakeRun, "run_id", told)
    _, _, older = planned_by()
    expanded, cells, _ = planned_by("track=none")
    expanded.refuse_other_settings(older, cells)


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
    cell = next(expansion(["+experiments=e", *folders, "run.isolate=true", "cache.dir=/c"]).planned("search"))
    assert {"data.root=FOLDER"} == {text for text in cell.planned.overrides if "FOLDER" in text}
    assert not any("/" in text for text in cell.planned.overrides)
    told, again = stages.portable(cell.overrides), stages.repeating(cell.overrides)
    assert {text for text in told if "FOLDER" in text} == {"data.root=FOLDER", "results_dir=FOLDER"}
    assert {text for text in again if "/" in text} == set(folders)
    assert stages.portable(["results_dir=../mine", "+data.root=d"]) == ("results_dir=../mine", "data.root=FOLDER")
    assert stages.portable(['results_dir="~/x"', "results_dir=\\~/x"]) == ("results_dir=FOLDER",) * 2


def test_a_search_is_launched_round_by_round_and_what_stays_without_a_record_is_not_launched_again(records):
    expanded = expansion(params={"method": "hu"})
    launched = []
    for batch in expanded.batches(lambda: None):
        launched.append([text[-1].partition("=")[2] for text in batch])
        cells = {cell.all_overrides: cell for stage in STAGES for cell in expanded.cells(stage)}
        for overrides in batch:
            if "method=hu" in overrides and overrides in cells and cells[overrides].learning_rate != 1e-2:
                add(records, cells[overrides])
    assert launched[0] == ["0.0032", "0.01", "0.032"]
    assert len(launched) == 1 + 1  # 0.01 was lost: the search has ended, and so has what follows; published is left
    complete = expansion(params={"method": "hu"})
    rounds = []
    for batch in complete.batches(lambda: None):
        rounds.append(len(batch))
        cells = {cell.all_overrides: cell for stage in STAGES for cell in complete.cells(stage)}
        for overrides in batch:
            add(records, cells[overrides])
    assert rounds == [3, 2, 3, 6, 2, 1, 1]


def test_stages_run_in_order_and_only_those_asked_for(records):
    expanded = expansion(run="search")
    assert len(list(expanded.batches(lambda: None))) == 1
    assert expanded.definition.asked == ("search",)


@pytest.mark.parametrize(
    ("sweeper", "message"),
    [
        ({"stages": {"a": {"rate": "best"}}, "params": {}, "rates": {"centre": {}}}, "stages.a.rate=best; choose from"),
        (
            {"stages": STAGES, "params": {}, "rates": {"centre": {}}, "run": "select,final"},
            "hydra.sweeper.run=final: the stages are search, select, tuned, shared, published",
        ),
    ],
)
def test_a_wrong_definition_is_one_line(sweeper, message):
    from omegaconf import OmegaConf

    with pytest.raises(ValueError, match=message):
        Definition.from_config(OmegaConf.create(sweeper))


def test_a_method_without_a_centre_is_named(records):
    with pytest.raises(ValueError, match=r"rates\.centre has nothing for method=eva"):
        list(expansion(params={"method": "eva"}).cells("search"))
    with pytest.raises(ValueError, match="shared is missing"):
        list(expansion(rates=replace(RATES, shared=None)).cells("shared"))
    with pytest.raises(ValueError, match="shared=eva: it is no method of this sweep"):
        list(expansion(rates=replace(RATES, shared="eva")).cells("shared"))
