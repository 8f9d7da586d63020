"""What holds for every study in experiments/: files whose learning rates are chosen in stages (conf/protocol)."""

import math
import re
from itertools import chain
from pathlib import Path

import pytest
import yaml
from datasets import Dataset, DatasetDict
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from bench.study.folders import CONF
from bench.sweep import arguments
from bench.sweep.sweep import Sweep
from bench.tasks.definition import load_definition
from bench.tasks.definition_files import BUILT_IN

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
OWN = EXPERIMENTS / "compare.yaml"  # the studies of users, whose questions nobody knows here
FILES = {
    str(path.relative_to(EXPERIMENTS).with_suffix("")): path
    for path in sorted({*EXPERIMENTS.rglob("[!_]*.yaml")} - {OWN})
    if "/protocol:" in path.read_text() or "/experiments/" in path.read_text()
}
HUB = [
    name for name in FILES if not name.endswith(("_tiny", "_small")) and not name.startswith(("community/", "laptop/"))
]
FOLDERS = sorted({str(Path(name).parent) for name in FILES})
SEARCH, SELECT = "search", "select"

# The papers' budgets: examples a step, epochs (of a task, or of the one task), warm-up as a share of the steps.
BUDGETS = {
    "lora_sb/arithmetic": (32, 1, 0.02),
    "lora_sb/commonsense": (144, 2, 0.02),
    "lora_sb/glue": (32, {"cola": 30, "rte": 30, "mrpc": 30, "stsb": 30, "qnli": 15, "sst2": 15}, 0.06),
    "lora_ga/t5_glue": (32, 1, 0.03),
    "lora_ga/llama2": (32, 1, 0.03),
    "impact_of_init/glue": (32, 3, 0.0),
    "impact_of_init/llama_gsm8k": (32, 3, 0.0),
    "asymmetry/glue": (8, {"rte": 20, "mrpc": 20, "stsb": 20, "cola": 20, "sst2": 3, "qnli": 3, "mnli": 3}, 0.0),
    "asymmetry/mmlu": (128, 3, 100 / 1221),
    "asymmetry/vit": (32, 3, 0.0),  # ours
    "asymmetry/bart": (32, 3, 0.0),
}


class Study:
    """A study's stages, and some of its cells as runs: enough to see each value of each axis and each stage's methods.

    Composing takes a tenth of a second a cell; a sweep composes and validates all of them before it starts.
    """

    def __init__(self, name):
        self.name = name
        # The model of these is a package that is not always installed.
        given = [f"+experiments={name}", *(["model=tiny_llama"] if name.startswith("laptop/") else [])]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", overrides=given, return_hydra_config=True)
            sweep = Sweep(config, given)
            expansion = sweep.expansion
            expansion._records = lambda group, trial: None  # there are none
            self.definition, self.groups = expansion.definition, expansion.groups()
            self.cells = {stage: list(expansion.cells(stage)) for stage in self.definition.stages}
            self.runs = {
                stage: [sweep.compose((*cell.all_overrides, *_waited(cell))) for cell in self._some(stage)]
                for stage in self.definition.stages
            }
        HydraConfig.instance().cfg = None
        self.methods = dict.fromkeys(run.method_name for runs in self.runs.values() for run in runs)
        self.trained = {run.method_name for runs in self.runs.values() for run in runs if run.trains}

    def _some(self, stage):
        seen = set()
        for cell in self.cells[stage]:
            every_axis = stage == next(iter(self.cells))
            new = set(cell.overrides if every_axis else (cell.group[_method_axis(cell.group)],)) - seen
            if new:
                seen |= set(cell.overrides)
                yield cell


def _method_axis(group):
    return next(index for index, text in enumerate(group) if text.startswith("method="))


def _seeds(cells):
    return {text for cell in cells for text in cell.overrides if text.startswith("seed=")}


def _waited(cell):
    return ["train.learning_rate=1e-3"] if cell.waits else []


# Another study with another model, or with another task: tests/contract/test_configurations.py expands them.
ALIKE = {name for name in FILES if name.endswith("_small")} | {"laptop/arc_easy", "laptop/sst2", "laptop/gsm_symbolic"}


# pytest runs a study's tests one after another: it is expanded once.
@pytest.fixture(scope="module", params=[name for name in FILES if name not in ALIKE])
def study(request):
    return Study(request.param)


def test_there_are_the_studies_of_four_papers_of_axes_of_families_and_of_a_laptop():
    assert set(HUB) == {*BUDGETS, "impact_of_init/tinyllama_wikitext"}
    folders = [folder for folder in FOLDERS if not folder.startswith("community/")]
    assert folders == ["asymmetry", "axes", "families", "impact_of_init", "laptop", "lora_ga", "lora_sb"]
    papers = {name.partition("/")[0] for name in BUDGETS}
    assert {name.partition("/")[0] for name in FILES if name.endswith("_small")} == papers


def test_every_value_of_every_axis_makes_a_valid_run(study):
    seen = set(chain.from_iterable(cell.group for cell in study._some(next(iter(study.cells)))))
    untrained = {text for group in study.groups for text in group if text == "method=none"}
    assert seen | untrained == set(chain.from_iterable(study.groups))
    assert all(run.run_id and run.study == study.name for runs in study.runs.values() for run in runs)


def test_every_method_that_trains_has_as_many_fits_in_its_search(study):
    rates = study.definition.rates
    assert rates.centre == "auto" or set(rates.centre) == study.trained
    count = {(stage, group): 0 for stage in (SEARCH, SELECT) for group in study.groups if "method=none" not in group}
    for stage, group in count:
        count[stage, group] = sum(cell.group == group for cell in study.cells[stage])
    of_search = [number for (stage, _), number in count.items() if stage == SEARCH]
    of_select = [number for (stage, _), number in count.items() if stage == SELECT]
    assert set(of_search) == {rates.points + (rates.points + 1) // 2}
    assert set(of_select) == {3 * len(_seeds(study.cells[SELECT]))}


def test_a_published_stage_has_a_rate_for_every_method_that_trains(study):
    if "published" in study.definition.stages:
        assert set(study.definition.rates.published) == study.trained
        assert all(run.train.learning_rate or not run.trains for run in study.runs["published"])
    elif not study.name.endswith("_small"):  # which leave that stage of a paper's study out
        assert not study.definition.rates.published


def test_learning_rates_are_chosen_on_other_rows_and_under_other_seeds_than_what_is_reported(study):
    reported = [run for stage, runs in study.runs.items() if stage not in (SEARCH, SELECT) for run in runs]
    assert {run.score.split for stage in (SEARCH, SELECT) for run in study.runs[stage]} == {"validation"}
    assert {run.score.split for run in reported} <= {"test"}
    seeds = {stage: _seeds(cells) for stage, cells in study.cells.items()}
    tried = seeds.pop(SEARCH) | seeds.pop(SELECT)
    assert not tried & set(chain.from_iterable(seeds.values()))


def test_the_controlled_track_has_one_scaling_rule_for_all_that_train_a_or_b(study):
    controlled = [run for stage, runs in study.runs.items() if stage != "published" for run in runs]
    rules = {run.method.scaling for run in controlled if run.method.trains & {"lora_A", "lora_B"}}
    assert rules == {"alpha_over_r"}


def test_choosing_rates_measures_no_alignment_but_where_its_curves_are_the_question(study):
    measured = {run.measure.alignment_steps > 0 for run in study.runs[SELECT]}
    asked = study.name.startswith("impact_of_init/") and not study.name.endswith("_tiny")
    assert measured == {asked} or study.name.endswith("_tiny")


def test_a_budget_is_the_papers_epochs_over_the_papers_rows(study):
    if study.name not in BUDGETS:
        pytest.skip("no paper's budget")
    batch, epochs, warmup = BUDGETS[study.name]
    tasks = set()
    for run in study.runs[SEARCH]:  # which has every task
        settings, task = run.train, run.task
        (trained_on,) = task.train
        rows = min(task.train_samples or math.inf, task.datasets[trained_on].rows["train"])
        of_task = epochs[task.name] if isinstance(epochs, dict) else epochs
        assert settings.batch_size * settings.gradient_accumulation_steps == batch
        whole = of_task * math.ceil(rows / batch)
        assert settings.max_steps in {round(share * whole) for share in study.definition.rates.budgets}
        assert settings.warmup_steps == math.ceil(round(warmup * whole, 6))
        tasks.add(task.name)
    assert not isinstance(epochs, dict) or tasks == set(epochs)


@pytest.mark.parametrize("name", FILES)
def test_a_readme_says_what_is_asked_and_what_was_found(name):
    text = (FILES[name].parent / "README.md").read_text()
    assert f"(#{name.replace('/', '')})" in text  # the table of contents
    section = re.search(rf"^## `{name}`\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"{name} has no section"
    assert "What we found" in section.group(1)


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_links_of_a_readme_exist_and_its_commands_pass_the_check_of_the_command_line(folder):
    text = (EXPERIMENTS / folder / "README.md").read_text()
    named = re.findall(r"\+experiments=(\S+)|bench\.(?:plan|report) (\S+)", text)
    assert {first or second for first, second in named} <= set(FILES)
    headed = set(re.findall(r"^## `(.+)`$", text, re.MULTILINE))
    assert headed == {name for name in FILES if name.startswith(f"{folder}/")}
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (EXPERIMENTS / folder / link).exists(), link
    for command in re.findall(r"^python -m bench\.run (.+?)(?:\s+#.*)?$", text, re.MULTILINE):
        arguments.check_arguments(command.replace("'", "").split())


@pytest.mark.parametrize("name", FILES)
def test_a_file_names_no_key_twice_and_heads_with_its_own_command(name):
    text = FILES[name].read_text()
    assert f"# python -m bench.run -m +experiments={name}" in text.splitlines()[:2]
    assert "/experiments/" in text or yaml.safe_load(text)["hydra"]["sweeper"]["params"]


@pytest.mark.parametrize("subject", ["anatomy", "high_school_us_history", "us_foreign_policy"])
def test_mmlu_asks_what_lm_eval_asks_with_five_examples_byte_for_byte(subject):
    rows = [
        {"question": f" Why {number}? ", "subject": subject, "choices": [f"{number}{c}" for c in "wxyz"], "answer": 2}
        for number in range(7)
    ]
    other = [row | {"subject": "virology", "question": "Other?"} for row in rows]
    config = load_yaml(BUILT_IN / "mmlu" / "default" / f"mmlu_{subject}.yaml", resolve_func=True)
    split = {"dev": Dataset.from_list(rows[:5]), "test": Dataset.from_list(rows[5:])}
    plain = ConfigurableTask(config=config | {"custom_dataset": lambda **_: DatasetDict(split)})
    mixed = [row for pair in zip(other, rows, strict=True) for row in pair]
    ours = load_definition("mmlu", "mmlu.yaml", {"test": mixed}, "test")

    def asked(task, docs, shots):
        prompts = [(doc, task.fewshot_context(doc, num_fewshot=shots)) for doc in docs]
        made = [task.construct_requests(doc, prompt, metadata=("mmlu", 0, 1)) for doc, prompt in prompts]
        return [[request.args for request in requests] for requests in made]

    assert len(ours.eval_docs) == 4
    of_subject = [doc for doc in ours.eval_docs if doc["subject"] == subject]
    assert asked(ours, of_subject, 0) == asked(plain, plain.test_docs(), 5)


def test_mmlu_without_its_examples_is_refused():
    row = {"question": "Why?", "subject": "anatomy", "choices": list("wxyz"), "answer": 0}
    with pytest.raises(ValueError, match=r"dev\.jsonl followed by test\.jsonl"):
        load_definition("mmlu", "mmlu.yaml", {"test": [row] * 5}, "test")
