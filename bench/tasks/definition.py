"""lm-eval task definitions, this project's and lm-eval's own, over rows that are already in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
import pyarrow
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml  # the one reader that knows lm-eval's include: and !function

from bench.process.environment import quiet
from bench.tasks.data import Rows
from bench.tasks.examples import Classification

OWN = Path(__file__).parent / "definitions"
BUILT_IN = Path(lm_eval.tasks.__file__).parent


class InMemoryTask(ConfigurableTask):
    """An lm-eval task whose dataset is given instead of downloaded.

    Attributes:
        classification: text fields and labels for an encoder; None: encoders cannot do the task.
    """

    def __init__(self, config: dict[str, Any], rows: Mapping[str, Rows], classification: Classification | None) -> None:
        self._rows = rows
        self.classification = classification
        super().__init__(config=config)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """Called by lm-eval's __init__; takes the given rows instead."""
        self.dataset = datasets.DatasetDict({split: _table(rows, split) for split, rows in self._rows.items()})


def _table(rows: Rows, split: str) -> datasets.Dataset:
    try:
        return datasets.Dataset.from_list(rows)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise ValueError(f"the rows of {split} do not agree in the types of their fields: {error}") from None


def read_definition(path: str) -> dict[str, Any]:
    """The content of an lm-eval YAML and of the files that it includes.

    Args:
        path: a file of bench/tasks/definitions or, relative to lm_eval/tasks, of lm-eval itself; `include` in a file of
            this project's likewise.

    Raises:
        ValueError: there is no such file.
    """
    if ".." in Path(path).parts or Path(path).is_absolute():  # a definition may name functions, which are imported
        raise ValueError(f"{path!r} is no task definition in {OWN} or in lm_eval/tasks")
    if not (OWN / path).is_file():
        if not (BUILT_IN / path).is_file():
            raise ValueError(f"no task definition {path!r} in {OWN} or in lm_eval/tasks")
        return load_yaml(BUILT_IN / path, resolve_func=True)
    config = load_yaml(OWN / path, resolve_func=True, recursive=False)
    included = config.pop("include", None)
    return (read_definition(included) if included else {}) | config


def load_definition(
    name: str,
    path: str,
    rows: Mapping[str, Rows],
    score_split: str,
    num_fewshot: int = 0,
    classification: Classification | None = None,
) -> InMemoryTask:
    """An lm-eval task.

    Args:
        name: the task's name in scores.
        path: as `read_definition` takes it.
        rows: rows by split; few-shot examples come from train.
        score_split: the split to score.
        num_fewshot: number of solved examples before each prompt.
        classification: text fields and labels for an encoder.

    Raises:
        ValueError: there is no such file, or a label is none of the choices.
    """
    config = read_definition(path)
    config |= {"task": name, "test_split": score_split, "num_fewshot": num_fewshot}
    config["training_split"] = "train" if "train" in rows else None
    config["validation_split"] = None
    config["fewshot_split"] = "train" if num_fewshot else None
    if not num_fewshot:
        config.pop("fewshot_config", None)
    try:
        with quiet("lm_eval"):
            task = InMemoryTask(config, rows, classification)
    except IndexError as error:  # lm-eval looks the first answer up among the choices
        raise ValueError(
            f"{name}: the label is out of range of the choices: {str(rows[score_split][0])[:120]}"
        ) from error
    task.set_fewshot_seed(1234)  # lm-eval's default; simple_evaluate sets it, evaluate does not
    return task


def prompt_and_target(task: ConfigurableTask, doc: dict[str, Any]) -> tuple[str, str]:
    """The prompt and the text to continue it with, exactly as lm-eval scores them with 0 shots.

    Raises:
        ValueError: the label is none of the choices.
    """
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return "", task.doc_to_target(doc)
    prompt, target = task.fewshot_context(doc, num_fewshot=0), task.doc_to_target(doc)
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = task.doc_to_choice(doc)
        if task.multiple_input:  # the choices are prompts, and the text is the index of the right one
            prompt = _chosen(prompt, task.doc_to_text(doc), task, doc)
        elif isinstance(target, int):
            target = _chosen(choices, target, task, doc)
        elif target not in choices:
            raise ValueError(f"{task.config.task}: the answer {target!r} is none of the choices {choices}")
    return prompt, target if task.OUTPUT_TYPE == "loglikelihood" else f"{task.config.target_delimiter}{target}"


def _chosen(choices: Any, index: int, task: ConfigurableTask, doc: dict[str, Any]) -> str:
    if not 0 <= index < len(choices):
        raise ValueError(
            f"{task.config.task}: label {index} is out of range, there are {len(choices)} choices (unlabelled rows, "
            f"often -1, cannot be used): {str(doc)[:120]}"
        )
    return choices[index]
