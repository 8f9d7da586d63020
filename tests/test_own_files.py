"""A method, a task, data, a definition, a metric and an experiment in a folder outside the package."""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml

from bench.new.files import KINDS, write
from bench.process.config_dirs import VARIABLE, add_config_dir, config_dir_words, config_dirs
from bench.study.folders import CONF, experiment_file
from bench.study.plan_file import RUN, PlannedRun, StudyPlan
from bench.study.registration import registration
from bench.sweep import choices
from bench.sweep.arguments import check_arguments
from bench.sweep.compose import product
from bench.tasks.definition import read_definition
from bench.tasks.definition_files import located, users_sha256

SMALL = ("task=my_sums", "data.root=data")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What `bench.new` writes, in the working directory; nothing is on the search path yet."""
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_thing", raising=False)
    write("method", "my_thing", Path())
    write("task", "my_sums", Path())
    return tmp_path


@pytest.fixture
def conf(folder):
    """The folder of configurations, on the search path."""
    add_config_dir(folder / "conf")
    return folder / "conf"


def composed(*overrides):
    from hydra import compose, initialize_config_dir

    from bench.sweep.resolvers import build

    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build(compose("config", overrides=list(overrides)))


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        check_arguments(arguments)
    printed = capsys.readouterr().err
    assert (stopped.value.code, printed.count("\n")) == (2, 1)
    return printed


# The folder


@pytest.mark.parametrize(
    "words",
    [["--config-dir", "conf"], ["-cd", "conf"], ["--config-dir=conf"], ["hydra.searchpath=[file://conf]"]],
)
def test_each_way_to_name_a_folder_adds_it_for_this_process_and_its_children(folder, words):
    assert check_arguments(["-m", *words, "method=hu,my_thing"]) == ["-m", "method=hu,my_thing"]
    assert config_dirs() == (folder / "conf",)
    assert os.environ[VARIABLE] == str(folder / "conf")


def test_a_folder_is_added_once_and_those_of_the_variable_stay(folder, monkeypatch):
    (folder / "other").mkdir()
    monkeypatch.setenv(VARIABLE, str(folder / "other"))
    for _ in range(2):
        add_config_dir("conf")
    assert config_dirs() == (folder / "other", folder / "conf")


def test_without_the_folder_its_choices_are_unknown(folder, capsys):
    assert "method=my_thing does not exist" in refused(capsys, "method=my_thing")
    check_arguments(["--config-dir", "conf", "method=my_thing", "task=my_sums"])


def test_a_folder_that_is_not_there_and_a_package_are_refused(folder, capsys):
    assert f"names {folder / 'nowhere'}, which is no folder" in refused(capsys, "--config-dir", "nowhere")
    os.environ[VARIABLE] = ""
    assert "hydra.searchpath takes folders here" in refused(capsys, "hydra.searchpath=[pkg://json]")


def test_a_file_that_the_suites_would_hide_is_refused(conf, capsys):
    (conf / "dataset" / "gsm8k.yaml").write_text("folder: mine\n")
    printed = refused(capsys, "method=hu")
    assert f"{conf / 'dataset' / 'gsm8k.yaml'} has the name of {CONF / 'dataset' / 'gsm8k.yaml'}" in printed


def test_the_suites_own_folder_as_config_dir_changes_nothing(folder):
    assert check_arguments(["--config-dir", str(CONF), "method=hu"]) == ["method=hu"]


def test_glob_takes_choices_of_the_folder_too(conf):
    assert product(["method=glob(my_*)"]) == [("method=my_thing",)]


@pytest.mark.parametrize(
    ("given", "values"),
    [("seed=range(0,3)", "012"), ("seed=choice(4,5)", "45"), ("rank=glob([r4,r8])", ["r4", "r8"])],
)
def test_ranges_choices_and_globs_are_enumerated(given, values):
    assert product([given]) == [(f"{given.partition('=')[0]}={value}",) for value in values]


# Runs


def test_a_method_and_a_task_of_the_folder_make_a_run(conf):
    run = composed("method=my_thing", *SMALL)
    assert (type(run.method).__name__, run.method.gain, run.train.learning_rate) == ("MyThing", 1.0, 0.01)
    assert run.run_id.startswith("my_thing-r8-my_sums-tiny_llama-s0-")


def test_a_class_that_is_on_no_path_is_refused_with_the_remedy(conf, monkeypatch):
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one not in ("", str(conf.parent))])
    with pytest.raises(ValueError, match=r"found no module my_thing with a class MyThing; PYTHONPATH names the folder"):
        composed("method=my_thing")


def test_the_folder_changes_no_id_of_a_run_without_its_files(folder):
    before = composed("method=lora_ga").run_id
    add_config_dir("conf")
    assert composed("method=lora_ga").run_id == before


@pytest.mark.parametrize("name", ["my_sums.yaml", "my_sums_metrics.py"])
def test_an_edited_definition_or_metric_makes_another_run(conf, name):
    before = composed(*SMALL).run_id
    path = conf / "definitions" / name
    path.write_text(f"{path.read_text()}\n# edited\n")
    assert composed(*SMALL).run_id != before


def test_an_edited_definition_that_another_includes_makes_another_run(conf):
    path = conf / "definitions" / "my_sums.yaml"
    path.rename(path.with_name("base.yaml"))
    path.write_text("include: base.yaml\ndescription: Add.\n")
    before = users_sha256("definitions/my_sums.yaml")
    assert read_definition("definitions/my_sums.yaml")["output_type"] == "generate_until"
    (conf / "definitions" / "my_sums_metrics.py").write_text("def begins_alike(**_):\n    return 0.5\n")
    assert users_sha256("definitions/my_sums.yaml") != before


def test_definitions_of_the_suite_and_of_lm_eval_are_known_by_their_names_alone():
    assert users_sha256("gsm_tiny.yaml") is None
    assert users_sha256("gsm8k/gsm8k.yaml") is None


def test_a_definition_that_is_nowhere_is_refused_with_the_folders_looked_in(conf):
    with pytest.raises(ValueError, match=rf"no task definition 'no\.yaml' in .*{conf}.*--config-dir=DIR adds yours"):
        located("no.yaml")


def test_a_record_says_the_command_without_this_machines_folder(conf):
    plan, run = StudyPlan(None, (RUN,), ()), PlannedRun(RUN, (), ("task=my_sums",), None)
    assert plan.command(run) == "python -m bench.run --config-dir FOLDER task=my_sums"
    assert plan.command(run, here=True) == f"python -m bench.run --config-dir {conf} task=my_sums"
    assert config_dir_words() == ["--config-dir", str(conf)]


def test_an_experiment_of_the_folder_is_found_and_registered(conf, capsys):
    (conf / "experiments").mkdir()
    path = conf / "experiments" / "mine.yaml"
    path.write_text("hydra: {sweeper: {params: {method: 'hu,my_thing'}}}\n")
    assert check_arguments(["-m", "+experiments=mine"])
    assert experiment_file("mine") == path
    assert list(registration("mine")) == ["study"]
    assert f"in {experiment_file('demo').parent}, {conf}" in refused(capsys, "+experiments=min")


def test_an_experiment_of_the_folder_names_no_code_either(conf):
    (conf / "experiments").mkdir()
    (conf / "experiments" / "evil.yaml").write_text("model: {_target_: os.system}\n")
    with pytest.raises(Exception, match=r"experiments/evil sets model\._target_"):
        composed("+experiments=evil")


# Rows


def test_rows_that_are_published_nowhere_need_a_folder_which_a_message_names_in_full(conf):
    with pytest.raises(ValueError, match=r"my_sums is published nowhere: data\.root must hold my_sums/SPLIT\.jsonl"):
        composed("task=my_sums")
    wanted = conf.parent / "nodata" / "my_sums" / "test.jsonl"
    with pytest.raises(ValueError, match=rf"{wanted} does not exist \(no such folder\)"):
        composed("task=my_sums", "data.root=nodata")


def test_a_plan_counts_the_rows_of_a_file(conf):
    from bench.sweep.size import num_items

    assert num_items(composed(*SMALL)) == 2


def test_all_that_a_few_rows_cannot_give_is_said_at_once_with_what_would_do(conf):
    asked = "task.validation_samples=200", "task.probe_samples=16", "task.calibration_samples=64"
    task = composed(*SMALL, *asked).task
    with pytest.raises(ValueError, match="my_sums has 8 rows in its train split") as told:
        task.read("test", True)
    said = str(told.value).partition("; say ")
    assert all(one in said[0] for one in asked)
    composed(*SMALL, *said[2].split()).task.read("test", True)
    with pytest.raises(ValueError, match="8 rows") as told:
        task.read("test", True, calibrates=False)
    assert "calibration" not in str(told.value)


def test_a_method_that_calibrates_nothing_is_content_with_few_rows(conf):
    from bench.model.load import UNKNOWN, LoadedModel
    from models import tiny_llama, word_tokenizer

    loaded = LoadedModel(tiny_llama(), word_tokenizer("causal"), UNKNOWN, "causal")
    task = composed(*SMALL, "task.calibration_samples=64", "task.probe_samples=9", "task.max_length=1000").task
    with pytest.raises(ValueError, match=r"calibration_samples=64, but my_sums has 6 .*; and task\.probe_samples=9 "):
        task.prepare(loaded, 0, "test")
    with pytest.raises(ValueError, match=r"^task\.probe_samples=9"):
        task.prepare(loaded, 0, "test", calibrates=False)


# A metric


def test_a_function_beside_the_definition_is_a_metric(conf):
    from bench.tasks.definition import load_definition

    rows = [json.loads(line) for line in (conf.parent / "data/my_sums/test.jsonl").read_text().splitlines()]
    task = load_definition("my_sums", "definitions/my_sums.yaml", {"test": rows}, "test")
    assert rows[0]["answer"] == "19"
    assert task.process_results(rows[0], ["10"]) == {"exact_match": 0.0, "begins_alike": 1.0}
    assert task.process_results(rows[0], ["91"]) == {"exact_match": 0.0, "begins_alike": 0.0}
    assert task.aggregation()["begins_alike"]([1.0, 0.0]) == 0.5
    assert task.higher_is_better()["begins_alike"] is True


def test_a_function_of_a_module_on_pythons_path_is_a_metric(conf):
    (conf.parent / "elsewhere.py").write_text("def one(references, predictions):\n    return 1.0\n")
    path = conf / "definitions" / "my_sums.yaml"
    path.write_text(path.read_text().replace("my_sums_metrics.begins_alike", "elsewhere.one"))
    metrics = [entry["metric"] for entry in read_definition("definitions/my_sums.yaml")["metric_list"]]
    assert metrics[0] == "exact_match"
    assert metrics[1](references=[], predictions=[]) == 1.0
    before = users_sha256("definitions/my_sums.yaml")
    (conf.parent / "elsewhere.py").write_text("def one(references, predictions):\n    return 2.0\n")
    assert users_sha256("definitions/my_sums.yaml") != before


def test_a_function_that_does_not_exist_is_refused_with_the_file(conf):
    path = conf / "definitions" / "my_sums.yaml"
    path.write_text(path.read_text().replace("begins_alike", "nosuch"))
    with pytest.raises(ValueError, match=r"my_sums\.yaml cannot be read: .*has no function 'nosuch'"):
        read_definition("definitions/my_sums.yaml")


# bench.new


def test_the_written_test_of_a_method_passes_and_can_fail(folder, monkeypatch):
    def run_it():
        monkeypatch.delitem(sys.modules, "my_thing", raising=False)
        namespace = {}
        exec((folder / "test_my_thing.py").read_text(), namespace)
        (test,) = (value for name, value in namespace.items() if name.startswith("test_"))
        test()

    run_it()
    path = folder / "my_thing.py"
    path.write_text(path.read_text().replace("self.gain / num_in**0.5", "2 * self.gain / num_in**0.5"))
    with pytest.raises(AssertionError):
        run_it()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("9x", "is no name for a"),
        ("My-Init", "is no name for a"),
        ("class", "is no name for a"),
        ("../x", "is no name for a"),
    ],
)
def test_what_is_no_name_is_refused(kind, name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write(kind, name, tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("method", "hu", "method=hu exists; choose another name"),
        ("method", "json", "there is a Python module json"),
        ("task", "gsm8k", "task=gsm8k exists; choose another name"),
        ("task", "cola", "the suite has a dataset cola"),
    ],
)
def test_a_name_that_is_taken_is_refused(kind, name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write(kind, name, tmp_path)


def test_what_was_written_is_not_written_over_and_the_suites_folder_is_left_alone(folder):
    with pytest.raises(ValueError, match=r"conf/task/my_sums\.yaml, .* exists; choose another name"):
        write("task", "my_sums", Path())
    with pytest.raises(ValueError, match="is the suite's own folder; give one of yours with --to DIR"):
        write("method", "another", CONF.parent)


def test_a_task_has_ten_rows(folder):
    rows = [line for path in (folder / "data/my_sums").iterdir() for line in path.read_text().splitlines()]
    assert len(rows) == 10


# What was meant


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("method=lora", "method=hu"),
        ("method=init_a", "method=hu"),
        ("method='Init[A]'", "method=hu"),
        ("method=Init[B]", "method=reversed"),
        ("method=init_b", "method=reversed"),
        ("method=LoRA-GA", "method=lora_ga"),
        ("method=PiSSA", "method=pissa"),
        ("method=FFT", "method=full_ft"),
        ("method=lora_gaa", "method=lora_ga"),
        ("model=tinyllama", "model=tiny_llama"),
        ("task=sst2", "task=glue/sst2"),
        ("tran.max_steps=3", "train"),
        ("+experiments=dmo", "+experiments=demo"),
    ],
)
def test_the_likely_name_is_named(given, meant, capsys):
    assert f"(did you mean {meant}?)" in refused(capsys, given)


def test_a_name_like_no_other_gets_no_guess(capsys):
    assert "did you mean" not in refused(capsys, "method=xyzzy")


def test_a_rank_without_a_file_is_set_by_its_keys(capsys):
    assert "rank=12 does not exist; say rank.r=12; choose from" in refused(capsys, "rank=12")
    run = composed("rank.r=12")
    assert "-r12-" in run.run_id
    assert run.rank.lora_alpha == 24


def test_other_names_of_methods_are_no_ones_name_and_two_methods_share_none():
    files = {path.stem: yaml.safe_load(path.read_text()) for path in (CONF / "method").glob("*.yaml")}
    named = [choices.plain(other) for content in files.values() for other in content.get("other_names", [])]
    assert len({*named, *files}) == len(named) + len(files)
