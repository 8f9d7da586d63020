"""Prompts and answers through a tokenizer's chat template, in training and in scoring alike."""

import copy
from pathlib import Path

import lm_eval.api.task
import pytest

from bench.model.load import Model
from bench.tasks.chat import Chat
from bench.tasks.definition import InMemoryTask, read_definition
from bench.tasks.examples import IGNORED, encode_pair
from models import word_tokenizer

TURNS = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def loaded():
    folder = Path(__file__).parents[1] / "bench" / "model" / "embedded" / "tiny_llama"
    return Model("m", None, "local", str(folder), None, ("q_proj",), "float32", "sdpa").load()


@pytest.fixture
def talking(loaded):
    """The embedded model with a chat template whose turns end in a special token that is not EOS."""
    found = copy.deepcopy(loaded)
    found.tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|end|>"]})
    found.tokenizer.chat_template = TURNS
    return found


def asked_of(evaluation, limit=3):
    evaluation.build_all_requests(limit=limit)
    return [request.args for request in evaluation.instances]


@pytest.mark.parametrize("task", ["gsm_tiny", "commonsense_tiny"])
def test_what_is_learnt_is_what_is_scored_token_for_token(compose_run, talking, task):
    prepared = compose_run(f"task={task}", "task.chat_template=true").task.prepare(talking, 0, "validation")
    (evaluation,) = prepared.evaluations.values()
    tokenizer, doc = talking.tokenizer, evaluation.eval_docs[0]
    seen = asked_of(evaluation, 1)
    example = prepared.eval_examples[0]
    prompt = [token for token, label in zip(example.input_ids, example.labels, strict=True) if label == IGNORED]
    target = [label for label in example.labels if label != IGNORED]
    assert tokenizer.decode(prompt).count("<|user|>") == 1
    assert tokenizer.decode(prompt).endswith("Answer:<|end|>\n<|assistant|>")
    assert target[-1] == tokenizer.convert_tokens_to_ids("<|end|>") != tokenizer.eos_token_id
    if task == "gsm_tiny":
        ((context, settings),) = seen
        assert encode_pair(tokenizer, context, doc["answer"], "causal") == (prompt, target[:-1])
        assert settings["until"] == ["Question:", "<|end|>"]
    else:
        pairs = [encode_pair(tokenizer, context, answer, "causal") for context, answer in seen]
        assert pairs[doc["label"]] == (prompt, target[:-1])
        assert {answer for _, answer in seen} == set(doc["choices"])  # without a space before them


@pytest.mark.parametrize("definition", ["gsm_tiny.yaml", "commonsense_tiny.yaml", "winogrande/default.yaml"])
def test_requests_are_those_of_lm_eval_itself_with_a_chat_template(talking, definition, compose_run):
    chat = Chat(talking.tokenizer)
    row = {"sentence": "A tree is _ than a bush.", "option1": "taller", "option2": "older", "answer": "1"}
    if not definition.startswith("winogrande"):
        name = definition.removesuffix(".yaml")
        row = compose_run(f"task={name}").task.datasets[name].generated()["test"][0]
    config = read_definition(definition) | {"task": "t", "test_split": "test", "num_fewshot": 0}
    config |= {"training_split": None, "validation_split": None, "fewshot_split": None}
    ours = InMemoryTask(dict(config), {"test": [row]}, None, chat)

    class Stock(lm_eval.api.task.ConfigurableTask):
        def download(self, *_, **__):
            self.dataset = ours.dataset

    stock = Stock(config=dict(config))
    stock.build_all_requests(apply_chat_template=True, chat_template=chat.render)
    wanted = [request.args for request in stock.instances]
    if ours.OUTPUT_TYPE == "generate_until":
        wanted = [(text, settings | {"until": [*settings["until"], "<|end|>"]}) for text, settings in wanted]
    assert asked_of(ours) == wanted


def test_an_answer_ends_in_eos_where_its_template_puts_no_special_token_behind_it(loaded, compose_run):
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    assert Chat(tokenizer).end == tokenizer.eos_token_id


def test_a_template_that_tells_the_date_tells_one_day_for_ever():
    tokenizer = word_tokenizer()
    for written in ("{{ strftime_now('%d %b %Y') }}", "{{ date_string }}"):
        tokenizer.chat_template = written + "{% for m in messages %}{{ m.content }}{% endfor %}"
        assert Chat(tokenizer).render([{"role": "user", "content": "?"}]) == "01 Jan 2025?"


def test_refusals_are_one_line(compose_run, loaded, tmp_path):
    task = compose_run("task.chat_template=true").task
    with pytest.raises(
        ValueError, match=r"task\.chat_template=true, but the tokenizer of .* has no chat template; lea"
    ):
        task.prepare(loaded, 0, "test")
    with pytest.raises(ValueError, match=r"task\.chat_template=true is for causal models, not encoder"):
        task.check("encoder")
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('No system.') }}{% endif %}a"
    with pytest.raises(ValueError, match=r"refuses messages of system, user: No system\.$"):
        Chat(tokenizer).render([{"role": "system", "content": "x"}, {"role": "user", "content": "y"}])


def test_plain_prompts_keep_their_run_ids(compose_run):
    plain, chat = compose_run(), compose_run("task.chat_template=true")
    assert "chat_template" not in plain.identity["task"]
    assert chat.identity["task"]["chat_template"] is True
    assert chat.to_dict()["task"]["chat_template"] is True
    assert plain.run_id != chat.run_id
