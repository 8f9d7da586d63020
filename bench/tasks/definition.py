"""lm-eval task definitions, this project's and lm-eval's own, over rows that are already in memory."""

from __future__ import annotations

import ast
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import jinja2
import lm_eval.utils
import pyarrow
import yaml
from lm_eval.api.metrics import perplexity, weighted_perplexity
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml  # the one reader that knows lm-eval's include: and !function

from bench.process.environment import quiet
from bench.tasks.chat import Chat
from bench.tasks.data import Rows
from bench.tasks.definition_files import BUILT_IN, included, located
from bench.tasks.examples import Classification, move_spaces

FEWSHOT_SEED = 1234  # lm-eval's default
DOCS_AT_A_TIME = 1000


class InMemoryTask(ConfigurableTask):
    """An lm-eval task whose dataset is given instead of downloaded, and whose templates are compiled once.

    lm-eval itself compiles them again for every row.

    Attributes:
        classification: fields and labels for a classifier; None: classifiers cannot do the task.
        cluster: the field that items which are not independent of each other share; None where all are.
        chat: the chat template that prompts and answers go through; None: they are plain text.
    """

    cluster: str | None = None

    def __init__(
        self,
        config: dict[str, Any],
        rows: Mapping[str, Rows],
        classification: Classification | None,
        chat: Chat | None = None,
    ) -> None:
        self._rows = rows
        self.classification = classification
        self.chat = chat
        if chat is not None and config.get("output_type") == "generate_until":
            settings = config["generation_kwargs"]
            until = [settings["until"]] if isinstance(settings["until"], str) else settings["until"]
            config = config | {"generation_kwargs": settings | {"until": [*until, chat.stop]}}
        super().__init__(config=config)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """Called by lm-eval's __init__; takes the given rows instead."""
        self.dataset = datasets.DatasetDict({split: _table(rows, split) for split, rows in self._rows.items()})

    def fewshot_docs(self) -> Any:
        """The rows that solved examples are drawn from; None where none are shown, as lm-eval would copy all rows."""
        return super().fewshot_docs() if self.config.num_fewshot else None

    def docs(self) -> Iterator[dict[str, Any]]:
        """The rows to be scored, in order; faster than one by one."""
        for batch in self.eval_docs.iter(DOCS_AT_A_TIME):
            yield from (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))

    def doc_to_text(self, doc: Any, doc_to_text: Any = None) -> Any:
        """The prompt of a row, or the index of a choice."""
        form = self.config.doc_to_text if doc_to_text is None else doc_to_text
        if not self._is_template(form):
            return super().doc_to_text(doc, doc_to_text)
        return self._index_or_text(_rendered(form, doc))

    def doc_to_target(self, doc: Any, doc_to_target: Any = None) -> Any:
        """The answer of a row, the index of a choice, or several answers."""
        form = self.config.doc_to_target if doc_to_target is None else doc_to_target
        if not self._is_template(form):
            return super().doc_to_target(doc, doc_to_target)
        text = _rendered(form, doc)
        if text.startswith("[") and text.endswith("]"):
            try:
                return ast.literal_eval(text)
            except (SyntaxError, ValueError):
                return text
        return self._index_or_text(text)

    def doc_to_choice(self, doc: Any, doc_to_choice: Any = None) -> Any:
        """The choices of a row."""
        form = self.config.doc_to_choice if doc_to_choice is None else doc_to_choice
        if not self._is_template(form):
            return super().doc_to_choice(doc, doc_to_choice)
        return ast.literal_eval(_rendered(form, doc))

    def doc_to_prefix(self, doc: Any) -> Any:
        """What an answer is made to begin with."""
        form = self.config.gen_prefix
        return _rendered(form, doc) if self._is_template(form) else super().doc_to_prefix(doc)

    @staticmethod
    def resolve_field(doc: dict[str, Any], field: str | None = None) -> Any:
        """A row's field, or the text of a template: the description before a prompt."""
        return _rendered(field, doc) if field and field not in doc else ConfigurableTask.resolve_field(doc, field)

    def _is_template(self, form: Any) -> bool:
        return isinstance(form, str) and form not in self.features and self.prompt is None

    def _index_or_text(self, text: str) -> Any:
        return ast.literal_eval(text) if text.isdigit() and self.config.doc_to_choice is not None else text

    def fewshot_context(self, doc: Any, num_fewshot: int, **given: Any) -> Any:
        """The prompt of a row, solved examples included, or one for each of several prompts."""
        if self.chat is not None:
            given |= {"apply_chat_template": True, "chat_template": self.chat.render}
        return super().fewshot_context(doc, num_fewshot, **given)

    def construct_requests(self, doc: Any, ctx: Any, **given: Any) -> Any:
        """What the model is asked of a row."""
        return super().construct_requests(doc, ctx, **given | {"apply_chat_template": self.chat is not None})

    @property
    def delimiter(self) -> str:
        """What stands between a prompt and its answer; an answer in a conversation begins where its message does."""
        begun = self.config.gen_prefix or ""
        between: str = self.config.target_delimiter
        return between if self.chat is None or (begun and not begun[-1].isspace()) else ""

    def build_all_requests(self, **settings: Any) -> None:
        """Called by lm-eval when an evaluation begins; draws the same solved examples in each."""
        self.set_fewshot_seed(FEWSHOT_SEED)
        super().build_all_requests(**settings)

    def aggregation(self) -> dict[str, Any]:
        """lm-eval's function of each metric; a perplexity beyond the largest float is infinite."""
        found = super().aggregation()
        return {name: Perplexity(made) if made in PERPLEXITIES else made for name, made in found.items()}


PERPLEXITIES = (perplexity, weighted_perplexity)


class Perplexity:
    """A perplexity of lm-eval's, infinite where the exponential overflows.

    It equals lm-eval's own, by which lm-eval finds the standard error of a metric.
    """

    def __init__(self, function: Callable[[Any], float]) -> None:
        self.function = function
        self.__name__ = function.__name__

    def __call__(self, items: Any) -> float:
        """The perplexity of log-likelihoods, or of pairs of one and its weight."""
        try:
            return float(self.function(items))
        except OverflowError:
            return math.inf

    def __eq__(self, other: object) -> bool:
        return other == self.function

    def __hash__(self) -> int:
        return hash(self.function)


def _rendered(template: str, doc: Mapping[str, Any]) -> str:
    return _compiled(template).render(**doc)


@functools.lru_cache(maxsize=256)
def _compiled(template: str) -> jinja2.Template:
    compiled = lm_eval.utils.env.from_string(template)
    compiled.globals = dict(compiled.globals)  # rendering copies them; copying Jinja's chain of dicts takes longer
    return compiled


def _table(rows: Rows, split: str) -> datasets.Dataset:
    try:
        return datasets.Dataset.from_list(rows)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise ValueError(f"the rows of {split} do not agree in the types of their fields: {error}") from None


def read_definition(path: str) -> dict[str, Any]:
    """The content of an lm-eval YAML and of the files that it includes.

    Args:
        path: as `located` takes it. In a file of this project's or of the user's, `include` names a file beside it or
            is such a path, too; `!function module.name` names a function of module.py beside it, or of a module on
            Python's path.

    Raises:
        ValueError: there is no such file, or it cannot be read as one.
    """
    return _read(located(path))


def _read(file: Path) -> dict[str, Any]:
    if file.is_relative_to(BUILT_IN):
        return load_yaml(file, resolve_func=True)
    try:
        config = load_yaml(file, resolve_func=True, recursive=False)
    except (yaml.YAMLError, ImportError, AttributeError) as error:
        raise ValueError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    base = config.pop("include", None)
    return (_read(included(file, base)) if base else {}) | config


def load_definition(
    name: str,
    path: str,
    rows: Mapping[str, Rows],
    score_split: str,
    num_fewshot: int = 0,
    classification: Classification | None = None,
    chat: Chat | None = None,
) -> InMemoryTask:
    """An lm-eval task.

    Args:
        name: the task's name in scores.
        path: as `read_definition` takes it.
        rows: rows by split; few-shot examples come from train.
        score_split: the split to score.
        num_fewshot: number of solved examples before each prompt.
        classification: fields and labels for a classifier; of images also what the choices are.
        chat: the chat template that prompts and answers go through.

    Raises:
        ValueError: there is no such file, a label is none of the choices, or train has fewer rows than num_fewshot.
    """
    config = read_definition(path)
    config |= {"task": name, "test_split": score_split, "num_fewshot": num_fewshot}
    config["training_split"] = "train" if "train" in rows else None
    config["validation_split"] = None
    config["fewshot_split"] = "train" if num_fewshot else None
    if classification is not None and classification.image is not None:
        config["doc_to_choice"] = [str(label) for label in range(classification.num_labels)]
    if not num_fewshot:
        config.pop("fewshot_config", None)
    try:
        with quiet("lm_eval"):
            task = InMemoryTask(config, rows, classification, chat)
    except IndexError as error:  # lm-eval looks the first answer up among the choices
        raise ValueError(
            f"{name}: the label is out of range of the choices: {str(rows[score_split][0])[:120]}"
        ) from error
    there = len(task.sampler.df) if num_fewshot else 0
    if num_fewshot > there:
        raise ValueError(
            f"task.num_fewshot={num_fewshot}, but {name} has {there} training rows to draw solved examples from; ask "
            "for fewer, or for more rows by task.train_samples"
        )
    return task


def prompt_and_target(task: InMemoryTask, doc: dict[str, Any]) -> tuple[str, str]:
    """The prompt and the text to continue it with, exactly as lm-eval scores them with 0 shots.

    White space at the prompt's end is the target's where the target's likelihood is scored, and the prompt's where a
    model generates.

    Raises:
        ValueError: the label is none of the choices.
    """
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return "", task.doc_to_target(doc)
    prompt = task.fewshot_context(doc, num_fewshot=0, gen_prefix=task.doc_to_prefix(doc))
    target = task.doc_to_target(doc)
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = task.doc_to_choice(doc)
        if task.multiple_input:  # the choices are prompts, and the text is the index of the right one
            prompt = _chosen(prompt, task.doc_to_text(doc), task, doc)
        elif isinstance(target, int):
            target = _chosen(choices, target, task, doc)
        elif target not in choices:
            raise ValueError(f"{task.config.task}: the answer {target!r} is none of the choices {choices}")
    if task.OUTPUT_TYPE != "loglikelihood":
        target = f"{task.delimiter}{target}"
    return (prompt, target) if task.OUTPUT_TYPE == "generate_until" else move_spaces(prompt, target)


def scored_pairs(task: ConfigurableTask, doc: dict[str, Any], fewest_bytes: int) -> list[tuple[str, str]]:
    """Each prompt and answer whose likelihood is scored, with 0 shots, if an answer has `fewest_bytes` or is empty.

    Else none, because prompts take time to render.
    """
    if task.OUTPUT_TYPE not in ("multiple_choice", "loglikelihood"):
        return []
    chosen = task.OUTPUT_TYPE == "multiple_choice" and not task.multiple_input
    answers = task.doc_to_choice(doc) if chosen else [task.doc_to_target(doc)]
    if all(0 < len(str(answer).encode()) < fewest_bytes for answer in answers):
        return []
    prompt = task.fewshot_context(doc, num_fewshot=0, gen_prefix=task.doc_to_prefix(doc))
    requests = task.construct_requests(doc, prompt, metadata=(task.config.task, 0, 1))
    return [request.args for request in (requests if isinstance(requests, list) else [requests])]


def _chosen(choices: Any, index: int, task: ConfigurableTask, doc: dict[str, Any]) -> str:
    if not 0 <= index < len(choices):
        raise ValueError(
            f"{task.config.task}: label {index} is out of range, there are {len(choices)} choices (unlabelled rows, "
            f"often -1, cannot be used): {str(doc)[:120]}"
        )
    return choices[index]
