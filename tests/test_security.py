"""What a configuration, a model folder, a record or a name might make the suite do, and does not."""

import json
import os
import pickle
import re
import shutil
import sys
from pathlib import Path

import pytest
from records import make_record

from bench.config import ConfigError, Run
from bench.methods.find import method_class
from bench.model.load import EMBEDDED, Model
from bench.report.read.load import ReportError, load_study
from bench.runs.names import checked_study, is_name, study_folder
from bench.runs.record import CorruptRecordError, read_record
from bench.study.plan_file import CorruptPlanError, read_plan
from bench.sweep.arguments import check_arguments
from bench.sweep.search_path import ExperimentsSource

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("bench", "conf", "experiments") for path in (ROOT / folder).rglob("*"))


# ---- what a configuration names


@pytest.mark.parametrize(
    "target",
    [
        "subprocess.run", "subprocess.Popen", "torch.load", "hydra.utils.instantiate", "bench.run.main",
        "bench.methods.base.Method", "bench.config.Run", "bench.methods.hu.torch", "bench.methods.hu.Hu.factors",
        "bench.methods.hu:Hu", ".Hu", "Hu", "", "bench.methods.hu.__class__", "../leaking.Leaking",
    ],
)  # fmt: skip
def test_no_target_but_a_method_is_imported_or_called(compose, target):
    config = compose()
    config["method"] = {"name": "x", "_target_": target, "args": ["true"]}
    before = set(sys.modules)
    with pytest.raises(ConfigError) as refused:
        Run.from_config(config)
    assert "\n" not in str(refused.value)
    assert set(sys.modules) - before == set()


def test_a_module_is_read_before_it_is_run(tmp_path, monkeypatch):
    """One that holds no class of the name is not imported; what it would do does not happen."""
    mark = tmp_path / "mark"
    run = f"open({str(mark)!r}, 'w').close()\n"
    (tmp_path / "innocent_name.py").write_text(run + "def Method(): pass\n")
    (tmp_path / "package_of_mine").mkdir()
    (tmp_path / "package_of_mine" / "__init__.py").write_text(run)
    (tmp_path / "package_of_mine" / "inner.py").write_text(run + "value = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    for target in (
        "innocent_name.Method",
        "innocent_name.Other",
        "package_of_mine.inner.value",
        "package_of_mine.no.X",
    ):
        with pytest.raises(ValueError, match="names no class"):
            method_class(target)
    assert not mark.exists()


def test_a_class_of_another_module_is_a_method_if_it_has_what_a_method_has(tmp_path, monkeypatch):
    (tmp_path / "made_elsewhere.py").write_text(
        "from bench.methods.hu import Hu\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Empty:\n    label: str = 'x'\n    def __init__(self, **k): raise SystemExit('was called')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert method_class("made_elsewhere.Hu").label == "LoRA"
    with pytest.raises(ValueError, match="is no method"):
        method_class("made_elsewhere.Empty")


@pytest.mark.parametrize(
    "argument",
    [
        "hydra.callbacks.mine._target_=os.system", "+hydra.callbacks={mine: {_target_: os.system}}",
        "hydra/job_logging=default",
        "hydra.launcher._target_=subprocess.run", "hydra.job_logging.handlers.x.class=subprocess.Popen",
        "+model._target_=os.system", "task={_target_: os.system}", "+experiments@hydra.callbacks=demo",
    ],
)  # fmt: skip
def test_a_command_line_names_nothing_for_hydra_to_call(capsys, argument):
    with pytest.raises(SystemExit) as refused:
        check_arguments([argument])
    assert refused.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "# @package _global_\nhydra:\n  callbacks:\n    mine: {_target_: os.system}\n",
        "# @package _global_\nhydra:\n  job_logging:\n    handlers: {x: {class: subprocess.Popen, args: ['true']}}\n",
        "# @package _global_\nhydra:\n  launcher: {setup: ['touch mark']}\n",
        "# @package _global_\nmodel: {_target_: os.system}\n",
        "# @package _global_\ndefaults:\n  - /model@hydra.callbacks: tiny_llama\n",
    ],
)
def test_an_experiment_names_nothing_for_hydra_to_call(tmp_path, text):
    from hydra.errors import ConfigCompositionException

    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text(text)
    source = ExperimentsSource("test", f"experiments://{tmp_path}")
    with pytest.raises(ConfigCompositionException, match="experiments/mine"):
        source.load_config("experiments/mine")
    assert not source.is_config("experiments/../experiments/mine")


def test_a_definition_of_another_folder_is_no_tasks_definition(tmp_path):
    """lm-eval's !function imports the file that a definition names."""
    from bench.tasks.definition import read_definition

    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\ndef f(): pass\n")
    (tmp_path / "evil.yaml").write_text("task: evil\nprocess_docs: !function evil.f\n")
    up = os.path.relpath(tmp_path, ROOT / "bench" / "tasks" / "definitions")
    for path in (str(tmp_path / "evil.yaml"), f"{up}/evil.yaml"):
        with pytest.raises(ValueError, match="is no task definition"):
            read_definition(path)
    assert not (tmp_path / "mark").exists()


# ---- pickles and code in model folders


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def model_folder(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(EMBEDDED / "tiny_llama", folder)
    return folder


def local(folder):
    return Model("x", None, "local", str(folder), None, None, "float32", "sdpa")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00001.bin"])
def test_a_pickle_instead_of_safetensors_is_refused_in_one_line(model_folder, tmp_path, name):
    for weights in model_folder.glob("*.safetensors"):
        weights.unlink()
    (model_folder / name).write_bytes(pickle.dumps(Touch(tmp_path / "mark")))
    with pytest.raises(ValueError, match="cannot be loaded") as refused:
        local(model_folder).load()
    assert len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "mark").exists()


def test_a_package_is_found_and_not_imported(tmp_path, monkeypatch):
    (tmp_path / "has_a_model" / "model").mkdir(parents=True)
    (tmp_path / "has_a_model" / "model" / "config.json").write_text("{}")
    (tmp_path / "has_a_model" / "__init__.py").write_text("raise SystemExit('was imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    folder = Model("x", None, "package", "has_a_model/model", None, None, "float32", "sdpa").place
    assert folder == tmp_path / "has_a_model" / "model"
    for path in ("has_a_model/../..", "../x", "os.path/x"):
        with pytest.raises(ValueError, match="is no package/folder"):
            _ = Model("x", None, "package", path, None, None, "float32", "sdpa").place


UNPICKLES = re.compile(
    r"\bpickle\b|torch\.load\(|np\.load\(|numpy\.load\(|joblib\.load|read_pickle|\bdill\b|cloudpickle|marshal\.loads?\(|\bshelve\b"
    r"|yaml\.(unsafe_|full_)?load\(|\beval\(|\bexec\(|trust_remote_code=True|allow_pickle=True|use_safetensors=False"
)
# Its words stand in these lines for what is right.
RIGHT = re.compile(
    r"weights_only=True|\.eval\(\)|\.exec\(|pickled with the job|reads its pickle|^\s*#|pickle\.dumps|pickle's, zip's"
)


def test_nothing_unpickles_evaluates_or_trusts_remote_code():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in SOURCES
        if path.suffix in (".py", ".yaml")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNPICKLES.search(line) and not RIGHT.search(line)
    ]
    assert found == []


# ---- names and paths


LEADS_ELSEWHERE = ["", "a\nb", "a" * 300, *r"../x /abs a/../../b a//b a/ . .. .hidden a/.b ~ -x a\b".split()]


def test_a_study_is_a_folder_below_the_results(compose, tmp_path):
    for study in LEADS_ELSEWHERE:
        with pytest.raises(ValueError, match="is no folder below the results folder"):
            checked_study(study)
    with pytest.raises(ConfigError, match="study="):
        Run.from_config(compose() | {"study": "../x"})
    with pytest.raises(ReportError, match="study="):
        load_study(tmp_path, "../x")


@pytest.mark.parametrize("group", ["method", "rank", "task", "model"])
def test_a_name_that_is_part_of_a_runs_id_is_part_of_a_folders_name(compose, group):
    def named(name):
        return Run.from_config(compose() | {"seed": 2**63 - 1, group: compose()[group] | {"name": name}})

    for name in ("../x", "a/b", "", "a" * 50, 3):
        with pytest.raises(ConfigError, match="name"):
            named(name)
    assert is_name(named("n" * 40).run_id)


def test_a_link_out_of_the_results_is_refused(tmp_path):
    outside, results = tmp_path / "outside", tmp_path / "results"
    outside.mkdir()
    (results / "inside").mkdir(parents=True)
    (results / "linked").symlink_to(outside)
    for study in ("linked", "linked/deeper"):
        with pytest.raises(ValueError, match="is a link that leads out of"):
            study_folder(results, study)
    with pytest.raises(ReportError, match="leads out of"):
        load_study(results, "linked")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.symlink_to(results)
    assert study_folder(elsewhere, "inside") == elsewhere / "inside"  # the results folder itself may be a link


@pytest.mark.parametrize("run_id", ["../../x", "/etc", ".hidden", ""])
def test_a_plan_or_a_record_with_an_id_that_leads_elsewhere_is_corrupt(tmp_path, run_id):
    run = {"stage": "run", "group": [], "overrides": [], "run_id": run_id, "refused": None}
    (tmp_path / "study.json").write_text(json.dumps({"experiment": None, "stages": ["run"], "runs": [run]}))
    with pytest.raises(CorruptPlanError, match="no name of a file or folder"):
        read_plan(tmp_path)
    content = make_record().model_dump() | {"schema_version": 3}
    for changed in ({"run_id": run_id}, {"files": {run_id: {"sha256": "0" * 64, "bytes": 1}}}):
        (tmp_path / "record.json").write_text(json.dumps(content | changed))
        with pytest.raises(CorruptRecordError, match=next(iter(changed))):
            read_record(tmp_path)
