"""What the pages tell a reader to write and type is true: README.md, and the pages of the rooms."""

import argparse
import functools
import importlib
import importlib.util
import json
import re
import shlex
import sys
import tomllib
import types
from pathlib import Path

import pytest
import torch
import yaml
from test_pages import leaves, named_in_first_cell, shipped

from bench.study.folders import CONF
from bench.sweep import arguments, choices
from matrices import layer_of, random

ROOT = Path(__file__).parents[1]
OF_OTHERS = {".venv", "node_modules", "results", ".github"}  # results/ has generated tables, and one page
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in sorted(ROOT.rglob("*.md"))
    if not OF_OTHERS & set(path.relative_to(ROOT).parts[:-1]) or path == ROOT / "results" / "README.md"
}
README = PAGES["README.md"]
MEASURED, COSTS_OF_A_CELL = ROOT / "results" / "benchmarks", "tests/benchmarks/README.md"
CLAIMS = (ROOT / "results" / "claims.md").read_text()
STAND_IN = re.compile(r"STUDY|PAPER|NAME|your_study|my_\w+|\bmine\b|\brates\b")  # names that a reader replaces


def block(kind, heading, page=README):
    section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL).group(1)


def between(marker, page):
    return page.partition(f"<!-- {marker} -->\n")[2].partition("<!-- end")[0]


def marked(marker):
    """What stands under a marker, which one page has."""
    (page,) = (text for text in PAGES.values() if f"<!-- {marker} -->" in text)
    return between(marker, page)


# What the first page says


def test_the_readme_is_read_to_the_end():
    assert len(README.splitlines()) <= 200


def test_it_says_on_the_first_screen_where_the_suite_has_never_run():
    assert "never run on a GPU or against the Hugging Face Hub" in " ".join(README.splitlines()[:10])


def test_its_table_is_the_demos_without_the_footnote():
    table = (ROOT / "results" / "demo" / "tables" / "results.md").read_text().partition("\n\n")[0]
    assert between("results/demo/tables/results.md", README).strip() == table


def test_the_numbers_it_found_are_those_of_the_claims():
    found = re.findall(r"^- .+?\*\*(.+?)\*\*, (\S+ \[.+?\] \w+)", block_of("What was found so far"), re.MULTILINE)
    answers = re.findall(r"^- .+?\*\*(.+?)\*\*.*?(?:(\S+ \[[^]]+\] [\w ]+), )?n = ", CLAIMS, re.MULTILINE)
    assert len(found) == 6
    assert set(found) <= set(answers)
    of_papers = re.findall(r"^- .+?\*\*(.+?)\*\*", CLAIMS.partition("### This suite")[0], re.MULTILINE)
    answered = sum(answer in ("yes", "no", "equivalent") for answer in of_papers)
    said = f"Of their {len(of_papers)} claims {answered} are answered and {of_papers.count('undecided')} undecided"
    assert said in " ".join(block_of("What was found so far").split())


def block_of(heading):
    return README.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def test_contributing_shows_the_layers_that_import_linter_keeps():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    shown = re.search(r"```\n(verify.*?)```", PAGES["CONTRIBUTING.md"], re.DOTALL).group(1)
    layers = [line.partition("  ")[0] for line in shown.splitlines()]
    assert layers == next(contract["layers"] for contract in contracts if contract["type"] == "layers")


def test_the_workflow_calls_targets_that_the_makefile_has():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    targets = re.findall(r"(?:&&|\|\|) '(\w+)'", workflow["env"]["TARGET"])
    assert targets == ["check", "test", "faults"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in targets)


# Adding a method


@pytest.fixture
def my_init(monkeypatch):
    """The module that the README shows, importable as it would be in its place."""
    module = types.ModuleType("bench.methods.my_init")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(block("python", "Add a method"), module.__dict__)
    return module


def test_the_method_it_shows_is_one(my_init):
    method = my_init.MyInit(scaling="alpha_over_r", gain=1.0)
    G = random(24, 40)
    factors = method.factors(layer_of(random(24, 40, seed=1), 4, gradient=G), torch.Generator())
    assert factors.lora_A.shape == (4, 40)
    assert factors.lora_B.shape == (24, 4)


def test_the_yaml_it_shows_configures_that_method(my_init, compose):
    from bench.config import Run

    shown = yaml.safe_load(block("yaml", "Add a method"))
    assert shown["method"]["scaling"] == "${scaling:alpha_over_r}"
    shown["method"]["scaling"] = "alpha_over_r"
    values = compose("method=hu")
    values["method"] = shown["method"]
    values["train"]["learning_rate"] = float(shown["train"]["learning_rate"])
    assert type(Run.from_config(values).method) is my_init.MyInit


def test_the_dataset_and_task_of_contributing_make_a_run(compose):
    from bench.config import Run

    section = PAGES["CONTRIBUTING.md"].partition("## A new task")[2]
    dataset, task = re.findall(r"```yaml\n(.+?)```", section, flags=re.DOTALL)
    shown = yaml.safe_load(task)
    shown.pop("defaults")
    values = compose()
    shared = yaml.safe_load((CONF / "task" / "_base.yaml").read_text()) | {"data_root": None}
    values["task"] = shared | shown | {"datasets": {"my_data": yaml.safe_load(dataset)}}
    assert Run.from_config(values).run_id.startswith("hu-r8-my_task-tiny_llama-s0-")


def test_the_template_of_a_community_study_expands_into_runs(tmp_path, monkeypatch):
    from bench.sweep import search_path

    template = ROOT / "experiments" / "community" / "template" / "_study.yaml"
    folder = tmp_path / "experiments" / "community" / "your_study"
    folder.mkdir(parents=True)
    (folder / "gsm_tiny.yaml").write_text(template.read_text())
    monkeypatch.setattr(search_path, "experiments_folder", lambda: tmp_path / "experiments")
    definition = staged("+experiments=community/your_study/gsm_tiny")
    assert list(definition.stages) == ["search", "select", "tuned"]
    assert set(definition.rates.centre) == {"hu", "lora_ga"}


def test_what_the_example_of_a_community_study_computes_is_what_its_page_says(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    page = PAGES["experiments/community/rank_of_init/README.md"]
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL).group(1), {})
    change, spread = capsys.readouterr().out.strip().split(", standard deviation ")
    assert f"by {change} points" in page
    assert f"standard deviation of {spread} points" in page


def test_the_frame_that_the_readme_shows_has_a_row_for_each_method(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    exec(block("python", "A sweep of your own"), {})
    assert {"LoRA", "LoRA-GA", "Full FT"} <= {line.partition("  ")[0] for line in capsys.readouterr().out.splitlines()}


def staged(experiment):
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig

    from bench.sweep.sweep import Sweep

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[experiment], return_hydra_config=True)
        expansion = Sweep(config, [experiment]).expansion
    HydraConfig.instance().cfg = None
    return expansion.definition


# Links, commands and keys of every page


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower()).replace(" ", "-")


def anchors(page):
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", page, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def commands(page):
    """The lines that a reader types, continued ones as one, without comments."""
    for text in re.findall(r"```\n(.*?)```", page, re.DOTALL):
        for line in text.replace("\\\n", " ").splitlines():
            if line.strip().startswith(("python -m bench", "torchrun", "make ", ".venv/bin/python -m bench")):
                yield shlex.split(line, comments=True)


TYPED = [(page, command) for page, text in PAGES.items() for command in commands(text)]


@functools.cache
def known_keys():
    """Every key of a run, of every group's choices, of every launcher and of the sweeper."""
    found = {"data.root", "hydra.launcher.jobs"}
    for path in CONF.rglob("*.yaml"):
        group = path.relative_to(CONF).parts[0]
        values = yaml.safe_load(path.read_text()) or {}
        found |= {key for key, _ in (*leaves(values), *leaves(values, f"{group}."))}
    parts = [key.split(".") for key in found]
    return {".".join(key[:end]) for key in parts for end in range(1, len(key) + 1)}


@pytest.mark.parametrize(
    ("page", "command"), TYPED, ids=lambda value: " ".join(value) if isinstance(value, list) else value
)
def test_every_command_is_one(page, command, monkeypatch):
    if command[0] == "make":
        assert re.search(rf"^{command[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    module, *given = command[command.index("-m") + 1 :]
    if module in ("bench.run", "bench.methods"):
        given = [text for text in given if not text.startswith("-") and not STAND_IN.search(text)]
        arguments.check_arguments(given)
        keys = {text.lstrip("+").partition("=")[0] for text in given}
        assert keys <= {*choices.GROUPS, "experiments", *known_keys()}
    else:
        is_room = importlib.util.find_spec(module).submodule_search_locations
        door = importlib.import_module(f"{module}.__main__" if is_room else module)
        monkeypatch.setattr(sys, "argv", [module, *given])
        parsed = parsed_by(door.main, monkeypatch)
        if "study" in parsed and not STAND_IN.search(parsed.study):
            assert parsed.study in choices.choices(ROOT / "experiments")


def parsed_by(main, monkeypatch):
    """What a command's parser makes of sys.argv; the command stops there."""

    class ParsedError(Exception):
        pass

    for name in ("parse_args", "parse_intermixed_args"):
        parse = getattr(argparse.ArgumentParser, name)

        def stop(self, words=None, parse=parse):
            raise ParsedError(parse(self, words))

        monkeypatch.setattr(argparse.ArgumentParser, name, stop)
    with pytest.raises(ParsedError) as stopped:
        main()
    return stopped.value.args[0]


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md" and not page.endswith("LOG.md")])
def test_every_key_and_file_that_a_page_names_exists(page):
    groups = r"run|checkpoint|task|train|score|svd|cache|adapter|method|measure|data|rank|model|hydra"
    for key in re.findall(rf"`((?:{groups})\.[a-z_.]+)(?:=[^`]*)?`", PAGES[page]):
        if not key.endswith((".yaml", ".py", ".json", ".md")):
            assert key in known_keys(), key
    for name in re.findall(r"`((?:bench|conf|tests|experiments)/[\w/.{,}]+)`", PAGES[page]):
        if not STAND_IN.search(name) and "{" not in name:
            assert (ROOT / name).exists(), name


# Tables


def test_the_table_of_schemes_has_a_row_for_every_method_that_adds_an_adapter():
    rows = [line for line in marked("schemes").splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.partition(" | ")[0])}
    assert named == shipped("method") - {"full_ft", "none"}


def test_the_table_of_systems_has_a_row_for_every_system():
    rows = [line for line in marked("systems").splitlines() if line.startswith("| `")]
    assert {row.split("`")[1] for row in rows} == shipped("system") - {"none"}


def test_the_commits_it_names_are_those_that_made_the_stored_outputs():
    import numpy as np

    for path in (ROOT / "tests" / "parity" / "authors").glob("*.npz"):
        stored = np.load(path)
        table = marked("systems" if path.stem in shipped("system") else "schemes")
        assert f"[`{str(stored['commit'])[:7]}`]({stored['repository']})" in table


@pytest.mark.parametrize(
    ("marker", "of_a_cell"), [("results/benchmarks", False), ("results/benchmarks of a cell", True)]
)
def test_the_costs_stated_are_those_that_were_measured(marker, of_a_cell):
    paths = [path for path in MEASURED.glob("*.json") if (f"`{path.stem}`" in PAGES[COSTS_OF_A_CELL]) == of_a_cell]
    measured = {path.stem: json.loads(path.read_text()) for path in paths}
    rows = {row["what"]: row for found in measured.values() for row in found["rows"]}
    stated = {cells[0]: cells[1:] for line in marked(marker).splitlines() if (cells := numbers(line))}
    parts = {} if of_a_cell else measured["init_cost"]["details"]["where the time goes"]
    assert stated.keys() >= parts.keys()
    for what, part in parts.items():
        assert stated.pop(what) == [f"{part['seconds']:.1f}", f"{part['share']:.0%}"]
    assert stated.keys() == {what for what, row in rows.items() if row["goal"] and "subspace" not in what}
    for what, (_, _, peer, ratio, goal, *_) in stated.items():
        assert float(ratio) == pytest.approx(rows[what]["ratio"], abs=0.005)
        assert (peer, goal) == (rows[what]["peer_name"], rows[what]["goal"])


def numbers(line):
    """The cells of a row of numbers; nothing for a heading or another line."""
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    return cells if any(character.isdigit() for character in line) else []


def test_the_claims_are_listed_by_paper():
    assert between("results/claims.md", PAGES["experiments/README.md"]).strip() == CLAIMS.rpartition("\n\n")[0]


def test_every_experiment_is_named_on_the_page_of_experiments():
    table = PAGES["experiments/README.md"].partition("| study | question |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| `")]
    named = {name for names in named_in_first_cell(rows) for name in names}
    assert named == {name for name in choices.choices(ROOT / "experiments") if not name.startswith("community/")}
