"""Rows that reasoning-gym generates."""

from dataclasses import replace
from pathlib import Path

import pytest
import reasoning_gym
import yaml

from bench.process.hashes import values_sha256
from bench.tasks import reasoning
from bench.tasks.reasoning import SEEDS, Generator

ROOT = Path(__file__).parents[1]
DATASETS = sorted((ROOT / "conf" / "dataset" / "reasoning").glob("*.yaml"))
SMALL = {"train": 60, "validation": 20, "test": 20}
SUMS = Generator("chain_sum", "0.1.25", {"max_digits": 2})


def declared(path):
    return yaml.safe_load(path.read_text())


@pytest.fixture(autouse=True)
def made_anew():
    reasoning._splits.cache_clear()
    yield
    reasoning._splits.cache_clear()


@pytest.mark.parametrize("path", DATASETS, ids=lambda path: path.stem)
def test_the_items_are_those_whose_digest_is_known_and_no_split_has_anothers(path):
    dataset = declared(path)
    generator = Generator(**dataset["generator"])
    assert generator.sha256 is not None
    rows = generator.splits(dataset["folder"], dataset["rows"])  # refuses others
    assert {split: len(of) for split, of in rows.items()} == dataset["rows"]
    questions = [row["question"] for of in rows.values() for row in of]
    assert len(set(questions)) == len(questions) == sum(dataset["rows"].values())


def test_neighbouring_seeds_share_nearly_all_items_which_is_why_ours_lie_far_apart():
    one, other = (
        {item["question"] for item in reasoning_gym.create_dataset("chain_sum", seed=s, size=100)} for s in (0, 1)
    )
    assert len(one & other) == 99
    assert all(abs(a - b) >= 100_000_000 for a in SEEDS.values() for b in SEEDS.values() if a != b)


def test_every_split_has_templates_of_its_own():
    generator = Generator("gsm_symbolic", "0.1.25", {}, "answer_cot", kinds="task_indices")
    rows = generator.splits("g", SMALL)
    made = {split: reasoning_gym.create_dataset("gsm_symbolic", seed=seed, size=1000) for split, seed in SEEDS.items()}
    kinds = {}
    for split, of in made.items():
        known = {of[index]["question"]: of.task_indices[index] for index in range(len(of))}
        kinds[split] = {known[row["question"]] for row in rows[split] if row["question"] in known}
    assert len(kinds["train"]) > 20
    assert len(set.union(*kinds.values())) == sum(map(len, kinds.values()))


def test_a_problems_answer_is_its_worked_steps_which_end_in_the_number():
    rows = Generator("gsm_symbolic", "0.1.25", {}, "answer_cot").splits("g", SMALL)["test"]
    made = reasoning_gym.create_dataset("gsm_symbolic", seed=SEEDS["test"], size=2 * SMALL["test"])
    assert [row["answer"].rpartition("#### ")[2].replace(",", "") for row in rows[:10]] == [
        made[index]["answer"] for index in range(10)
    ]


def test_what_is_taken_of_an_answer_that_was_generated():
    from bench.tasks.definition import load_definition

    task = load_definition("s", "reasoning/answer.yaml", SUMS.splits("s", SMALL), "test")
    (taken,) = task._filters
    assert taken.filters[0]().apply([[" 12 \n 3", "", "-4"]], [{}])[0][:1] == ["12"]


def test_refusals_are_one_line(monkeypatch):
    def says(generator, rows=SMALL):
        reasoning._splits.cache_clear()
        with pytest.raises(ValueError, match=r"^sums") as error:
            generator.splits("sums", rows)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert says(replace(SUMS, version="0.1.24")) == (
        "sums has the items of reasoning-gym 0.1.24, and 0.1.25 is installed: pip install reasoning-gym==0.1.24"
    )
    assert says(replace(SUMS, task="sum_of_chains")).startswith("sums: reasoning-gym's sum_of_chains cannot be made: ")
    assert says(replace(SUMS, options={"digits": 2})).startswith("sums: reasoning-gym's chain_sum cannot be made: ")
    few = replace(SUMS, options={"min_digits": 1, "max_digits": 1, "max_terms": 2})
    assert "different items for train, and rows.train=6000 are asked for; ask for fewer" in says(
        few, SMALL | {"train": 6000}
    )
    assert "does not fix its items by its seed: their SHA-256 is" in says(replace(SUMS, sha256="0" * 64))

    def not_there(name):
        raise reasoning.PackageNotFoundError(name)

    monkeypatch.setattr(reasoning, "installed_version", not_there)
    assert says(SUMS) == "sums needs reasoning-gym: pip install reasoning-gym==0.1.25"


def test_a_generator_whose_items_change_from_one_making_to_the_next_is_found_out(monkeypatch):
    made, calls = reasoning_gym.create_dataset, []

    def drifting(name, seed, size, **options):
        calls.append(seed)
        return made(name, seed=seed + len(calls), size=size, **options)

    monkeypatch.setattr(reasoning_gym, "create_dataset", drifting)
    with pytest.raises(ValueError, match="does not fix its items by its seed"):
        SUMS.splits("sums", SMALL)


def test_rows_are_identified_by_what_makes_them_without_making_them(compose_run, monkeypatch):
    monkeypatch.setattr(reasoning, "_splits", None)
    dataset = compose_run("task=reasoning/syllogism").task.datasets["syllogism"]
    content = dataset.content(None, {"train", "test"})
    assert set(content) == {"train", "test"}
    changed = replace(dataset, rows=dataset.rows | {"train": 10})
    assert changed.content(None, {"train"})["train"] != content["train"]


def test_a_run_is_composed_and_planned_without_the_package(compose_run, monkeypatch):
    from bench.sweep.size import num_items

    monkeypatch.setattr(reasoning, "_splits", None)
    run = compose_run("task=reasoning/syllogism", "score.limit=null")
    assert num_items(run) == run.task.datasets["syllogism"].rows["test"]
    assert values_sha256(run.identity)
