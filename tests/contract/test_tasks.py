"""What holds for every dataset and task in conf/; a new file is under test once tests/rows.py has rows for it."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from datasets import Dataset as Table
from datasets import DatasetDict
from jinja2 import UndefinedError
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml
from PIL import Image
from pydantic import ValidationError

from bench.sweep import choices
from bench.tasks.data import Dataset
from bench.tasks.definition import InMemoryTask, load_definition, prompt_and_target, read_definition
from bench.tasks.definition_files import BUILT_IN, OWN
from bench.tasks.fields import row_validator
from rows import ROWS

CONF = Path(__file__).parents[2] / "conf"
DATASETS = {
    path.stem: Dataset(**yaml.safe_load(path.read_text())) for path in sorted((CONF / "dataset").rglob("*.yaml"))
}
TASKS = choices.choices(CONF / "task")
GENERATED = "reasoning/"
FORMS = [(name, template) for name, dataset in DATASETS.items() for template in dataset.definitions]
BUILT_INS = [(name, t) for name, t in FORMS if not (OWN / DATASETS[name].definitions[t]).is_file()]
WRAPPED = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{}\n\n### Response:"
)


@pytest.fixture(autouse=True)
def no_metric_from_the_hub(monkeypatch):
    """HumanEval's definition loads its metric when it is read, and tries it on a sum."""

    class CodeEval:
        def compute(self, references, predictions, k):
            return {f"pass@{n}": 1.0 for n in k}, {}

    monkeypatch.setattr("evaluate.load", lambda name: CodeEval())
    yield
    sys.modules.pop("lm_eval.tasks.humaneval.utils", None)


def load(name, template="default", rows=None):
    dataset = DATASETS[name]
    return load_definition(
        name, dataset.definitions[template], {"test": rows or ROWS[name]}, "test", 0, dataset.classification
    )


def rendered(name, template, rows):
    task = load(name, template, rows)
    return [prompt_and_target(task, doc) for doc in task.eval_docs]


def without(rows, *fields):
    return [{key: value for key, value in row.items() if key not in fields} for row in rows]


def requests_of(task, doc):
    """The arguments of what lm-eval asks a model about a document, 0-shot."""
    made = task.construct_requests(doc, task.fewshot_context(doc, num_fewshot=0), metadata=(task.config.task, 0, 1))
    return made if isinstance(made, list) else [made]


def scores(task, doc, answer):
    """What lm-eval's filters and metrics make of a generated answer: filter -> metric -> value."""
    (request,) = requests_of(task, doc)
    request.resps = [answer]
    task._instances = [request]
    task.apply_filters()
    return {name: task.process_results(doc, [found]) for name, found in request.filtered_resps.items()}


# Every dataset


@pytest.mark.parametrize("name", DATASETS)
def test_what_the_published_and_the_generated_rows_hold_is_what_is_declared(name):
    dataset = DATASETS[name]
    generated = dataset.generated() if dataset.hub is None else {}
    for row in (*ROWS[name], *(row for rows in generated.values() for row in rows)):
        assert row_validator(dataset.fields).validate_python(row).items() <= row.items()


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, d in DATASETS.items() for field in d.fields])
@pytest.mark.parametrize("value", [None, ["a", None], {}, True, float("nan")], ids=repr)
def test_no_field_of_any_dataset_may_be_null_or_hold_what_only_looks_like_it(name, field, value):
    with pytest.raises(ValidationError, match=field):
        row_validator(DATASETS[name].fields).validate_python(ROWS[name][0] | {field: value})


def test_there_are_rows_for_every_dataset_and_no_others():
    assert sorted(ROWS) == sorted(DATASETS)


@pytest.mark.parametrize(("name", "template"), FORMS)
def test_every_definition_loads_and_renders_prompt_and_target_from_the_declared_fields(name, template):
    undeclared = {field for row in ROWS[name] for field in row} - set(DATASETS[name].fields)
    made = rendered(name, template, without(ROWS[name], *undeclared))
    assert made == rendered(name, template, ROWS[name])
    for prompt, target in made:
        assert isinstance(prompt, str)
        assert target.strip()
        assert "{{" not in prompt + target
        assert "{%" not in prompt + target


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, d in DATASETS.items() for field in d.fields])
def test_every_declared_field_is_in_the_rows_and_some_definition_reads_it(name, field):
    dataset = DATASETS[name]
    assert all(field in row for row in ROWS[name])

    renamed = [without([row], field)[0] | {f"{field}_of_old": row[field]} for row in ROWS[name]]

    def reads(template):
        try:
            return rendered(name, template, renamed) != rendered(name, template, ROWS[name])
        except (KeyError, ValueError, UndefinedError):
            return True

    assert any(reads(template) for template in dataset.definitions)


@pytest.mark.parametrize(("name", "template"), FORMS)
def test_a_definition_offers_the_right_answer_or_generates_greedily_and_says_where_to_stop(name, template):
    task = load(name, template)
    for doc in task.eval_docs:
        requests = requests_of(task, doc)
        if task.OUTPUT_TYPE == "multiple_choice":
            assert len({request.args for request in requests}) == len(requests) > 1
            assert prompt_and_target(task, doc) in {request.args for request in requests}
        elif task.OUTPUT_TYPE == "loglikelihood":
            assert [prompt_and_target(task, doc)] == [request.args for request in requests]
        else:
            assert len(requests) == 1
    if task.OUTPUT_TYPE == "generate_until":
        assert task.config.generation_kwargs["do_sample"] is False
        assert task.config.generation_kwargs["until"]


@pytest.mark.parametrize("name", [name for name, dataset in DATASETS.items() if dataset.classification])
def test_every_classification_reads_declared_texts_and_knows_the_labels(name):
    dataset = DATASETS[name]
    form, task = dataset.classification, load(name)
    read = form.texts if form.image is None else (form.image,)
    assert set(read) < set(dataset.fields)
    for row in ROWS[name]:
        assert all(isinstance(row[field], str) for field in read)
        assert form.label(row) == row["label"]
    generates = task.OUTPUT_TYPE == "generate_until"
    assert form.num_labels == (1 if generates else len(task.config.doc_to_choice))


@pytest.mark.parametrize("name", DATASETS)
def test_every_published_dataset_says_where_it_is_and_how_long_its_splits_are(name):
    dataset = DATASETS[name]
    if dataset.hub is None:
        assert bool(dataset.rows) == (dataset.generator is not None)
        return
    assert {split for split in (dataset.splits.train, dataset.splits.test) if split} == set(dataset.rows)
    assert dataset.hub.path.count("/") == 1
    pinned = len(dataset.hub.revision) == 40 and set(dataset.hub.revision) <= set("0123456789abcdef")
    assert pinned or dataset.hub.revision == "main"


@pytest.mark.parametrize(("name", "template"), BUILT_INS)
def test_a_built_in_definition_asks_what_plain_lm_eval_asks_byte_for_byte(name, template):
    config = load_yaml(BUILT_IN / DATASETS[name].definitions[template], resolve_func=True)
    splits = [config[key] for key in config if key.endswith("_split") and config[key]]
    config["custom_dataset"] = lambda **_: DatasetDict({split: Table.from_list(ROWS[name]) for split in splits})
    plain, ours = ConfigurableTask(config=config), load(name, template)
    asked = [[[r.args for r in requests_of(task, doc)] for doc in task.eval_docs] for task in (plain, ours)]
    assert asked[0] == asked[1]
    assert len(asked[0]) == len(ROWS[name])
    assert plain.OUTPUT_TYPE == ours.OUTPUT_TYPE
    assert [one.name for one in plain._filters] == [one.name for one in ours._filters]
    assert plain.aggregation() == ours.aggregation()
    assert plain.higher_is_better() == ours.higher_is_better()


@pytest.mark.parametrize(("name", "template"), FORMS)
@pytest.mark.parametrize("num_fewshot", [0, 2])
def test_templates_compiled_once_render_what_lm_eval_renders_of_every_row(name, template, num_fewshot):
    path, rows = DATASETS[name].definitions[template], {"train": ROWS[name] * 3, "test": ROWS[name]}
    ours = load_definition(name, path, rows, "test", num_fewshot)
    used = {"task": name, "training_split": "train", "validation_split": None, "test_split": "test"}
    shown = {"num_fewshot": num_fewshot, "fewshot_split": "train"} | ({} if num_fewshot else {"fewshot_config": None})
    tables = DatasetDict({split: Table.from_list(of_split) for split, of_split in rows.items()})
    plain = ConfigurableTask(config=read_definition(path) | used | shown | {"custom_dataset": lambda **_: tables})
    assert list(ours.docs()) == list(plain.eval_docs)
    made = []
    for task in (plain, ours):
        task.set_fewshot_seed(1234)
        prompts = [task.fewshot_context(doc, num_fewshot=num_fewshot) for doc in task.eval_docs]
        answers = [(task.doc_to_target(doc), task.doc_to_prefix(doc)) for doc in task.eval_docs]
        choices = [task.doc_to_choice(doc) for doc in task.eval_docs if task.config.doc_to_choice]
        made.append((prompts, answers, choices, list(map(type, (*choices, *(target for target, _ in answers))))))
    assert made[0] == made[1]


ODD = {
    "text": "1",
    "listed": "[1, 2]",
    "broken": "[1, 2",
    "named": "[Ann]",
    "label": 1,
    "choices": ["a", "b"],
    "it": "{{text}}",
}


@pytest.mark.parametrize(
    "target", ["{{text}}", "{{listed}}", "{{broken}}", "{{named}}", "label", "{{it}}", "{{ label }}"]
)
@pytest.mark.parametrize("choices", [None, "choices", "{{choices}}", ["a", "b"]])
def test_what_a_template_renders_is_an_index_a_list_or_a_text_as_lm_eval_reads_it(target, choices):
    output = {"output_type": "generate_until"} if choices is None else {"output_type": "multiple_choice"}
    config = {"task": "odd", "test_split": "test", "doc_to_text": "{{text}}", "doc_to_target": target} | output
    config |= {"doc_to_choice": choices, "gen_prefix": "{{it}}", "description": "{{it}} {{label}}\n"}
    plain = ConfigurableTask(config=config | {"custom_dataset": lambda **_: DatasetDict(test=Table.from_list([ODD]))})
    ours = InMemoryTask(config, {"test": [ODD]}, None)
    for doc in plain.eval_docs:
        for read in ("doc_to_text", "doc_to_target", "doc_to_prefix", *(["doc_to_choice"] if choices else [])):
            expected, found = getattr(plain, read)(doc), getattr(ours, read)(doc)
            assert (expected, type(expected)) == (found, type(found))
        if choices is None:
            asked = [task.fewshot_context(doc, num_fewshot=0, gen_prefix="It") for task in (plain, ours)]
            assert asked[0] == asked[1]


# Every task


@pytest.mark.parametrize("choice", TASKS)
def test_every_task_takes_datasets_by_their_files_and_can_probe_what_it_holds_out(compose_task, choice):
    task = compose_task(choice)
    assert set(task.train) | set(task.score) <= set(task.datasets)
    for name, dataset in task.datasets.items():
        assert dataset == DATASETS[name]
        assert task.template in dataset.definitions
    assert all(task.datasets[name].splits.train for name in task.train)
    assert 2 * task.probe_samples <= task.validation_samples * len(task.train)
    assert task.calibration_samples % task.calibration_batch_size == 0
    for name in task.train:
        num_train = task.datasets[name].rows.get("train", 4000)  # as many as embedded tasks have
        assert 2 * task.validation_samples < num_train


def write_images(folder, num_labels, times):
    """As many grey squares of each class as `times` says, each of another brightness."""
    for label in range(num_labels):
        (folder / f"{label:02}").mkdir(parents=True)
        for number in range(times):
            Image.new("L", (8, 6), 10 * number + label).save(folder / f"{label:02}" / f"{number}.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data.root of made-up rows, those of train ten times over."""
    root = tmp_path_factory.mktemp("data")
    for name, dataset in DATASETS.items():
        for split, times in ((dataset.splits.train, 10), (dataset.splits.test, 1)):
            if dataset.hub is not None and split is not None:
                (root / dataset.folder).mkdir(exist_ok=True)
                if dataset.is_of_images:
                    write_images(root / dataset.folder / split, dataset.classification.num_labels, times)
                    continue
                lines = [json.dumps(row) + "\n" for row in ROWS[name]] * times
                (root / dataset.folder / f"{split}.jsonl").write_text("".join(lines))
    return root


@pytest.fixture(scope="module")
def models(compose_run):
    vision = compose_run("model=tiny_vit", "task=digits").model
    return {False: compose_run().model.load(), True: vision.load()}


@pytest.mark.filterwarnings("ignore")  # that these splits are short, and train and test the same
@pytest.mark.parametrize(
    "choice", [choice for choice in TASKS if not choice.startswith(GENERATED) and "_tiny" not in choice]
)
def test_every_task_can_be_prepared_from_local_files(compose_task, folder, models, choice):
    few = {"validation_samples": 4, "calibration_samples": 2, "calibration_batch_size": 2, "probe_samples": 1}
    task = replace(compose_task(choice), data_root=folder, **few)
    prepared = task.prepare(models[task.datasets[task.train[0]].is_of_images], 0, "test")
    assert prepared.train
    assert set(prepared.evaluations) == set(task.score)


def test_every_dataset_belongs_to_a_task(compose_task):
    used = {name for choice in TASKS for name in compose_task(choice).datasets}
    assert used == set(DATASETS)


@pytest.mark.parametrize("choice", [choice for choice in TASKS if choice.startswith("glue/")])
def test_an_encoder_can_be_trained_and_scored_on_every_task_of_glue(compose_run, choice):
    task = compose_run(f"task={choice}").task
    task.check("encoder")
    assert task.num_labels == {"stsb": 1, "mnli": 3}.get(task.name, 2)


# GSM8K and MATH


@pytest.mark.parametrize("template", ["default", "alpaca"])
def test_golds_of_gsm8k_with_commas_and_signs_are_scored_right(template):
    task = load("gsm8k", template)
    seven, many, below = task.eval_docs
    for doc, right, wrong in ((seven, "7", "17"), (many, "1200", "200"), (many, "1,200", "1"), (below, "-5", "5")):
        for answer, value in ((right, 1.0), (wrong, 0.0)):
            found = scores(task, doc, f" So it is.\n#### {answer}")
            assert {name: metrics["exact_match"] for name, metrics in found.items()} == {
                "strict-match": value,
                "flexible-extract": value,
            }


@pytest.mark.parametrize("template", ["default", "alpaca"])
def test_an_answer_in_other_words_is_found_in_gsm8k_by_its_last_number(template):
    task = load("gsm8k", template)
    for answer, value in (("30 * 40 = 1200 trees.\nThe answer is: 1200", 1), ("no number", 0)):
        found = scores(task, task.eval_docs[1], answer)
        assert found["flexible-extract"]["exact_match"] == value
        assert found["strict-match"]["exact_match"] == 0


@pytest.mark.parametrize(
    ("answer", "built_in", "boxed"),
    [
        (" $\\frac{1}{2}$", 1, 0),
        ("First $x = \\frac{2}{4}$, so $x = \\boxed{\\frac12}$.", 0, 1),
        ("Not \\boxed{3} but \\boxed{\\frac{1}{2}}", 0, 1),
        ("Not \\boxed{\\frac{1}{2}} but \\boxed{3}", 0, 0),
        ("So it is.\nThe answer is: \\frac{1}{2}.\n", 0, 1),
        ("The answer is: 3\nNo.\nThe answer is: $1/2$ \nIndeed", 1, 1),
        ("$\\boxed{3}$\nThe answer is: \\frac{1}{2}", 0, 0),
        ("It is 0.5 and \\boxed{ unclosed", 0, 0),
        ("\\frac{1}{2}", 1, 0),
        ("", 0, 0),
    ],
)
@pytest.mark.parametrize("template", ["default", "alpaca"])
def test_math_is_scored_as_lm_eval_does_and_by_the_answer_that_a_solution_ends_in(template, answer, built_in, boxed):
    task = load("hendrycks_math", template)
    assert scores(task, task.eval_docs[0], answer) == {"none": {"exact_match": built_in, "exact_match_boxed": boxed}}
    assert set(task.aggregation()) == set(task.higher_is_better()) == {"exact_match", "exact_match_boxed"}


def test_a_solution_of_math_scores_in_full_by_its_boxed_answer():
    task = load("hendrycks_math")
    for doc in task.eval_docs:
        _, target = prompt_and_target(task, doc)
        assert target == f" {doc['solution']}"
        assert scores(task, doc, target)["none"]["exact_match_boxed"] == 1


def test_metamath_asks_in_the_very_prompts_of_gsm8k_and_math():
    asked = {
        (name, template): [prompt for prompt, _ in rendered(name, template, ROWS[name])]
        for name in ("gsm8k", "hendrycks_math", "metamath")
        for template in ("default", "alpaca")
    }
    for template in ("default", "alpaca"):
        gsm, math = asked["metamath", template]
        assert gsm == asked["gsm8k", template][0]
        assert math == asked["hendrycks_math", template][0]
    assert asked["metamath", "default"][0].startswith("Question: Mia")
    assert asked["metamath", "alpaca"][0] == WRAPPED.format(ROWS["gsm8k"][0]["question"])


@pytest.mark.parametrize(("name", "field"), [("gsm8k", "answer"), ("hendrycks_math", "solution")])
@pytest.mark.parametrize(("template", "delimiter"), [("default", " "), ("alpaca", "")])
def test_worked_solutions_are_learnt_whole(template, delimiter, name, field):
    learnt = [target for _, target in rendered(name, template, ROWS[name])]
    assert learnt == [delimiter + row[field] for row in ROWS[name]]


@pytest.mark.parametrize(("template", "delimiter"), [("default", " "), ("alpaca", "")])
def test_metamath_is_learnt_whole_and_scored_by_its_final_answer(template, delimiter):
    task = load("metamath", template)
    for doc, wrong in zip(task.eval_docs, ("8", "\\frac{1}{3}"), strict=True):
        assert prompt_and_target(task, doc)[1] == delimiter + doc["response"]
        for answer, value in (
            (doc["response"] + " \n", 1),
            (f"The answer is: {wrong}\nNo.\n{doc['response']}", 1),
            (f"{doc['response']}\nNo.\nThe answer is: {wrong}", 0),
            ("I do not know", 0),
        ):
            assert scores(task, doc, answer) == {"final-answer": {"exact_match": value}}


# STS-B


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        (" 3.8", 3.8),
        ("about 4, I think", 4.0),
        ("5.", 5.0),
        ("-0.25", -0.25),
        ("4.5e-05", 4.5e-05),
        (str(2.7182817459106445), 2.7182817459106445),
        ("very similar", -1.0),
        ("", -1.0),
        ("9e999", -1.0),
    ],
)
def test_the_number_of_an_sts_b_answer_is_read_and_minus_one_stands_for_none(answer, number):
    task = load("stsb")
    (found,) = scores(task, task.eval_docs[2], answer).values()
    assert found == {"pearson": (3.785, number), "spearman": (3.785, number)}


@pytest.mark.parametrize(("label", "target"), [(3.785, "3.8"), (0.0, "0.0"), (5.0, "5.0"), (2.5, "2.4"), (1.25, "1.2")])
def test_sts_b_is_learnt_as_t5_does_in_steps_of_a_fifth(label, target):
    ((_, learnt),) = rendered("stsb", "default", [ROWS["stsb"][0] | {"label": label}])
    assert learnt == f" {target}"


@pytest.mark.filterwarnings("error")
def test_sts_b_is_scored_by_both_correlations_which_are_zero_where_undefined():
    task = load("stsb")
    pearson, spearman = (task.aggregation()[name] for name in ("pearson", "spearman"))
    curved = [(float(gold), float(gold**3)) for gold in range(5)]
    assert spearman(curved) == pytest.approx(1)
    assert 0.8 < pearson(curved) < 0.99
    assert pearson([(gold, 2 * gold - 1) for gold, _ in curved]) == pytest.approx(1)
    assert spearman([(gold, -gold) for gold, _ in curved]) == pytest.approx(-1)
    for undefined in ([(1.0, 2.0), (3.0, 2.0)], [(2.0, 1.0), (2.0, 3.0)], [(1.0, 2.0)]):
        assert pearson(undefined) == spearman(undefined) == 0
    assert task.higher_is_better() == {"pearson": True, "spearman": True}


# The protocol of LLM-Adapters

LLM_ADAPTERS = {
    "boolq": (ROWS["commonsense_170k"][0]["instruction"], "true", "false"),
    "piqa": (ROWS["commonsense_170k"][1]["instruction"], "solution1", "solution2"),
    "social_iqa": (
        "Please choose the correct answer to the question: Robin lent Kim an umbrella. How would Kim feel as a "
        "result?\n\nAnswer1: angry Answer2: grateful Answer3: hungry\n\nAnswer format: answer1/answer2/answer3",
        "answer2",
        "answer3",
    ),
    "hellaswag": (
        "Please choose the correct ending to complete the given sentence: Baking bread: A woman kneads dough. she\n\n"
        "Ending1: sails away. Ending2: puts it into the oven. Ending3: reads the dough a letter. Ending4: sells her "
        "car.\n\nAnswer format: ending1/ending2/ending3/ending4",
        "ending2",
        "ending4",
    ),
    "winogrande": (
        "Please choose the correct answer to fill in the blank to complete the given sentence: The cup did not fit "
        "into the bag because the _ was too small.\n\nOption1: cup Option2: bag Answer format: option1/option2",
        "option2",
        "option1",
    ),
    "arc_easy": (
        "Please choose the correct answer to the question: Which of these is a liquid at room temperature?\n\n"
        "Answer1: iron Answer2: water Answer3: oxygen Answer4: salt\n\nAnswer format: answer1/answer2/answer3/answer4",
        "answer2",
        "answer1",
    ),
    "openbookqa": (
        "Please choose the correct answer to the question: A magnet attracts\n\nAnswer1: a wooden spoon Answer2: a "
        "paper cup Answer3: an iron nail Answer4: a glass jar\n\nAnswer format: answer1/answer2/answer3/answer4",
        "answer3",
        "answer5",
    ),
    "commonsense_170k": (ROWS["commonsense_170k"][0]["instruction"], "true", "solution1"),
}
LLM_ADAPTERS["arc_challenge"] = LLM_ADAPTERS["arc_easy"]


def test_the_protocol_of_llm_adapters_is_known_for_every_dataset_that_has_it():
    assert set(LLM_ADAPTERS) == {name for name, template in FORMS if template == "llm_adapters"}


@pytest.mark.parametrize("name", LLM_ADAPTERS)
def test_prompt_and_target_are_those_of_llm_adapters(name):
    instruction, right, _ = LLM_ADAPTERS[name]
    made = rendered(name, "llm_adapters", ROWS[name])
    assert made[0] == (WRAPPED.format(instruction) + "\n", f"the correct answer is {right}")


def test_answers_are_numbered_by_position_whatever_their_letters_and_however_many():
    four, three, five = rendered("arc_challenge", "llm_adapters", ROWS["arc_challenge"])
    assert [target[-7:] for _, target in (four, three, five)] == ["answer2", "answer3", "answer5"]
    assert "Answer3: carbon dioxide\n\nAnswer format: answer1/answer2/answer3\n\n###" in three[0]
    assert "Answer5: Mercury\n\nAnswer format: answer1/answer2/answer3/answer4/answer5\n\n###" in five[0]


@pytest.mark.parametrize("name", LLM_ADAPTERS)
def test_what_is_learnt_scores_in_full_and_the_first_answer_word_counts_in_the_protocol_of_llm_adapters(name):
    task = load(name, "llm_adapters")
    for doc in task.eval_docs:
        _, target = prompt_and_target(task, doc)
        assert scores(task, doc, target) == {"first-answer": {"exact_match": 1}}
    (_, right, wrong), doc = LLM_ADAPTERS[name], task.eval_docs[0]
    for answer, value in (
        (f"the correct answer is {right}", 1),
        (f"\n {right}. Or {wrong}?", 1),
        (f"the correct answer is {wrong}", 0),
        (f"{wrong}, not {right}", 0),
        ("the correct answer is", 0),
        (right.upper(), 0),
    ):
        assert scores(task, doc, answer) == {"first-answer": {"exact_match": value}}


# Summaries

ARTICLE = "Ann sold 12 eggs in May.\nBen bought them all.\nNobody saw Dr. Fox."


def rouge(summary, answer):
    task = load("xsum", rows=[{"document": ARTICLE, "summary": summary}])
    (found,) = scores(task, task.eval_docs[0], answer).values()
    return found


def test_rouge_counts_words_pairs_and_common_subsequences_by_hand():
    # 3 of 4 and of 5 words; 1 of 3 and of 4 pairs; the longest common subsequence is "ben eggs" or "bought eggs".
    found = rouge("Ben bought eggs today", "Eggs: Ben bought 12 keys")
    assert found["rouge1"] == pytest.approx(2 * 3 / (4 + 5))
    assert found["rouge2"] == pytest.approx(2 * 1 / (3 + 4))
    assert found["rougeL"] == found["rougeLsum"] == pytest.approx(2 * 2 / (4 + 5))
    stemmed = rouge("He buys eggs", "he buy egg")
    assert set(stemmed.values()) == {1.0}


def test_an_empty_summary_scores_zero_and_the_reference_itself_one():
    assert set(rouge("Ben bought eggs.", " ").values()) == {0.0}
    assert set(rouge("Ben bought eggs. Ann left.", "Ben bought eggs. Ann left.").values()) == {1.0}


def test_rouge_lsum_takes_sentences_one_by_one_in_any_order_and_line_breaks_part_them():
    first, second = "Ben bought a dozen eggs on Monday .", "Nobody saw the old fox again ."
    swapped = rouge(f"{first}\n{second}", f"{second} {first}")
    assert swapped["rougeLsum"] == 1
    assert swapped["rougeL"] < 0.6
    assert rouge(f"{first}\n{second}", f"{second}\n{first}") == swapped


def test_rouge_is_the_same_whatever_the_names_of_a_datasets_fields():
    row = {"article": ARTICLE, "highlights": "Ben bought eggs .\nAnn sold them ."}
    task = load("cnn_dailymail", rows=[row])
    (found,) = scores(task, task.eval_docs[0], "Ann sold eggs to Ben.").values()
    assert found == rouge(row["highlights"], "Ann sold eggs to Ben.")
    assert task.aggregation()["rougeLsum"]([0.5, 1.0]) == 0.75
    assert set(task.higher_is_better().values()) == {True}
    assert list(task.higher_is_better()) == ["rouge1", "rouge2", "rougeL", "rougeLsum"]


@pytest.mark.parametrize(("name", "field", "num_words"), [("xsum", "document", 600), ("cnn_dailymail", "article", 700)])
@pytest.mark.parametrize("template", ["default", "plain", "beams"])
def test_a_long_document_keeps_its_first_words_and_its_lines(name, field, num_words, template):
    words = [f"w{number}" for number in range(1000)]
    long = ROWS[name][0] | {field: "First\nline " + " ".join(words)}
    ((prompt, _),) = rendered(name, template, [long])
    assert "First\nline w0 " in prompt
    assert f"w{num_words - 2}" in prompt.split()  # "First\nline" is one
    assert f"w{num_words - 1}" not in prompt.split()
    assert prompt.startswith("First" if template != "default" else "Summarize the following article:")


@pytest.mark.parametrize(("name", "beams"), [("xsum", 8), ("cnn_dailymail", 4)])
def test_summaries_are_decoded_greedily_unless_the_papers_beams_are_asked_for(name, beams):
    asked = {template: load(name, template).config.generation_kwargs for template in ("default", "plain", "beams")}
    assert {template: settings["num_beams"] for template, settings in asked.items()} == {
        "default": 1,
        "plain": 1,
        "beams": beams,
    }
    assert len({settings["max_gen_toks"] for settings in asked.values()}) == 1
    assert rendered(name, "plain", ROWS[name]) == rendered(name, "beams", ROWS[name])


def test_rows_without_a_document_or_a_summary_are_left_out():
    rows = [{"document": ARTICLE, "summary": "Ann sold eggs."}, {"document": " ", "summary": "No."}]
    rows.append({"document": ARTICLE, "summary": ""})
    assert [target for _, target in rendered("xsum", "plain", rows)] == ["Ann sold eggs."]


def test_without_rouge_score_a_task_of_summaries_is_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    monkeypatch.delitem(sys.modules, str(OWN / "summaries" / "rouge"), raising=False)
    with pytest.raises(ValueError, match=r"^\S+xsum\.yaml cannot be read: ROUGE needs .*pip install rouge-score nltk$"):
        load("xsum")


# Instructions


def test_alpacas_prompt_shows_an_input_only_where_there_is_one():
    plain, with_input = rendered("alpaca", "default", ROWS["alpaca"])
    assert plain == (WRAPPED.format("Name a colour."), "Blue.")
    assert with_input[0] == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSort the numbers.\n\n### Input:\n3, 1, 2\n\n### Response:"
    )


def test_a_response_that_looks_like_a_list_is_text_and_one_that_is_empty_is_left_out():
    assert [target for _, target in rendered("alpaca", "default", ROWS["alpaca"])] == ["Blue.", "[1, 2, 3]"]
    empty = ROWS["code_feedback"][0] | {"answer": " \n"}
    made = rendered("code_feedback", "default", [*ROWS["code_feedback"], empty])
    assert [target for _, target in made] == [ROWS["code_feedback"][0]["answer"]]


@pytest.mark.parametrize(("name", "field"), [("alpaca", "output"), ("code_feedback", "answer")])
def test_instructions_are_scored_by_the_perplexity_of_the_responses_words_and_bytes(name, field):
    task = load(name, "default")
    doc = dict(task.eval_docs[0]) | {field: "two é"}
    found = task.process_results(doc, [(-3.5, False)])
    assert found == {"word_perplexity": (-3.5, 2), "byte_perplexity": (-3.5, 6), "bits_per_byte": (-3.5, 6)}
    assert set(task.higher_is_better().values()) == {False}
    long = [(-3000.0, 1000), (-1000.0, 1000)]  # of a good model too, the likelihood of a whole text is next to nothing
    assert task.aggregation()["byte_perplexity"](long) == pytest.approx(7.38905609893065)  # e^2


@pytest.mark.parametrize(("answer", "filled"), [("1", "Ann"), ("2", "Bea")])
def test_where_the_choices_are_prompts_training_sees_the_right_one(answer, filled):
    row = {"sentence": "Ann thanked Bea because _ was kind.", "option1": "Ann", "option2": "Bea", "answer": answer}
    task = load_definition("winogrande", DATASETS["winogrande"].definitions["default"], {"test": [row]}, "test")
    doc = task.eval_docs[0]
    assert prompt_and_target(task, doc) == (f"Ann thanked Bea because {filled}", " was kind.")
    requests = task.construct_requests(doc, task.fewshot_context(doc, num_fewshot=0), metadata=("x", 0, 1))
    assert prompt_and_target(task, doc) == requests[int(answer) - 1].args


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_that_is_none_of_the_choices_is_refused(label):
    rows = [ROWS["piqa"][0], ROWS["piqa"][0] | {"label": label}]
    task = load("piqa", rows=rows)
    with pytest.raises(ValueError, match=rf"piqa: label {label} is out of range, there are 2 choices"):
        prompt_and_target(task, task.eval_docs[1])


def test_a_first_row_whose_label_is_none_of_the_choices_is_refused():
    with pytest.raises(ValueError, match=r"piqa: the label is out of range of the choices: .*'label': 2"):
        load("piqa", rows=[ROWS["piqa"][0] | {"label": 2}])
