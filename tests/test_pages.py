"""The pages beside the configurations and the results say what is there."""

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bench.runs.record import Record
from bench.study.folders import CONF
from bench.sweep.choices import GROUPS, choices

ROOT = Path(__file__).parents[1]
PAGE = (CONF / "README.md").read_text()
RESULTS = (ROOT / "results" / "README.md").read_text()


def shipped(group):
    """The choices of a group without those on trial, whose learning rate is still a guess."""
    files = {name: (CONF / group / f"{name}.yaml").read_text() for name in choices(CONF / group)}
    return {name for name, text in files.items() if "# a guess" not in text}


def rows_after(text, page=PAGE):
    """The rows of the first table after a text, as lists of cells."""
    table = page.partition(text)[2].partition("\n\n")[0]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines() if row.startswith("| `")]


def leaves(content, prefix=""):
    """Dotted keys of a YAML mapping with their values; an empty or listed value is one."""
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("group", GROUPS)
def test_the_page_names_every_choice_of_every_group(group):
    (named,) = [cells[1] for cells in rows_after("| group | choices |") if cells[0] == f"`{group}`"]
    if group in ("task", "model"):
        assert named == f"[{group.title()}s](#{group}s)"
    else:
        assert {name.strip() for name in named.split(",")} == shipped(group)


def test_the_page_has_every_key_with_its_default():
    found = dict(leaves(yaml.safe_load((CONF / "config.yaml").read_text())))
    for group, file in (("rank", "r8"), ("task", "_base"), ("train", "default"), ("measure", "default")):
        found |= dict(leaves(yaml.safe_load((CONF / group / f"{file}.yaml").read_text()), f"{group}."))
    found |= dict(leaves(yaml.safe_load((CONF / "protocol" / "standard.yaml").read_text())))
    found["rank.lora_alpha"] = 2 * found["rank.r"]
    found["track.project"] = yaml.safe_load((CONF / "track" / "offline.yaml").read_text())["project"]
    stated = {cells[0].strip("`"): yaml.safe_load(cells[1]) for cells in rows_after("| key | default |")}
    assert stated == {key: found.get(key, "not a key") for key in stated}
    assert {key for key in found if not key.startswith(("hydra", "defaults", "rank.name"))} <= stated.keys()


def named_in_first_cell(rows):
    """Names of each row; one without a group has that of the name before it."""
    found = []
    for cells in rows:
        names = re.findall(r"`([\w/]+)`", cells[0])
        group = names[0].rpartition("/")[0]
        found.append([name if "/" in name or not group else f"{group}/{name}" for name in names])
    return found


def test_its_table_of_tasks_has_a_row_for_every_task_and_says_which_an_encoder_can_do(compose_task):
    rows = [cells for cells in rows_after("<!-- tasks -->\n") if cells[0] != "`task=`"]
    named = named_in_first_cell(rows)
    assert {name for names in named for name in names} == shipped("task")
    for cells, names in zip(rows, named, strict=True):
        for name in names:
            task = compose_task(name)
            try:
                task.check("encoder")
                fits = True
            except ValueError:
                fits = False
            says = cells[-1] in ("✓", "regression") or f"`{name.rpartition('/')[2]}`" in cells[-1]
            assert fits == says, name
            templates = set.intersection(*(set(task.datasets[d].definitions) for d in (*task.train, *task.score)))
            assert {text.strip() for text in cells[3].split(",")} == templates, name


def test_its_table_of_models_has_every_model_under_its_kind(compose):
    rows = rows_after("| `model=` |")
    assert {name for names in named_in_first_cell(rows) for name in names} == shipped("model")
    for cells, names in zip(rows, named_in_first_cell(rows), strict=True):
        for name in names:
            kind = compose(f"model={name}", "model.path=x" if name == "local" else "seed=0")["model"]["kind"]
            assert cells[1].startswith(kind or "read from its config.json")


def test_the_page_of_results_has_every_part_of_a_record_and_every_measure_that_a_study_has():
    parts = {name for cells in rows_after("| part of", RESULTS) for name in re.findall(r"`(\w+)`", cells[0])}
    assert parts == set(Record.model_fields) - {"run_id", "schema_version"}
    measures = {name for cells in rows_after("| measure |", RESULTS) for name in re.findall(r"`(\w+)`", cells[0])}
    recorded = pd.read_csv(ROOT / "results" / "demo" / "figures" / "alignment.csv")
    assert set(recorded["measure"]) <= measures
