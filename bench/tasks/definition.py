"""lm-eval task definitions, this project's and lm-eval's own, over rows that are already in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml  # the one reader that knows lm-eval's include: and !function

from bench.tasks.data import Rows

OWN = Path(__file__).parent / "definitions"
BUILT_IN = Path(lm_eval.tasks.__file__).parent


class InMemoryTask(ConfigurableTask):
    """An lm-eval task whose dataset is given instead of downloaded."""

    def __init__(self, config: dict[str, Any], rows: dict[str, Rows]) -> None:
        self._rows = rows
        super().__init__(config=config)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """lm-eval calls this from __init__."""
        self.dataset = datasets.DatasetDict(
            {split: datasets.Dataset.from_list(rows) for split, rows in self._rows.items()}
        )


def load_definition(path: str, rows: dict[str, Rows], score_split: str, num_fewshot: int) -> InMemoryTask:
    """An lm-eval task.

    Args:
        path: a YAML file of bench/tasks/definitions or, relative to lm_eval/tasks, of lm-eval itself.
        rows: the splits; few-shot examples come from train.
        score_split: the split to score, test or selection.
        num_fewshot: how many solved examples precede a prompt.
    """
    file = OWN / path if (OWN / path).is_file() else BUILT_IN / path
    if not file.is_file():
        raise ValueError(f"no task definition {path!r} in {OWN} or in lm_eval/tasks")
    config = load_yaml(file, resolve_func=True)
    config |= {"training_split": "train", "test_split": score_split, "num_fewshot": num_fewshot}
    config["validation_split"] = None
    config["fewshot_split"] = "train" if num_fewshot else None
    task = InMemoryTask(config, rows)
    task.set_fewshot_seed(1234)  # lm-eval's default; simple_evaluate sets it, evaluate does not
    return task


def prompt_and_target(task: ConfigurableTask, doc: dict[str, Any]) -> tuple[str, str]:
    """The text a model is given and the text it should go on with, exactly as lm-eval scores them 0-shot."""
    prompt, target = task.doc_to_text(doc), task.doc_to_target(doc)
    if task.config.doc_to_choice is not None and isinstance(target, int):
        target = task.doc_to_choice(doc)[target]
    return prompt, f"{task.config.target_delimiter}{target}"
