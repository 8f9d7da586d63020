"""lm-eval's results as rows: scores, and the outcome of every item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.score.settings import Outcome, Score

if TYPE_CHECKING:
    from bench.tasks.definition import InMemoryTask


def scores(results: Mapping[str, Any], evaluations: Mapping[str, InMemoryTask]) -> list[Score]:
    """Scores, one row a task, metric and filter."""
    found = []
    for task, values in results["results"].items():
        for key, value in values.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            stderr = values.get(f"{metric}_stderr,{filtered}")
            found.append(
                Score(
                    task=task,
                    metric=metric if filtered == "none" else key,
                    value=float(value),
                    stderr=float(stderr) if isinstance(stderr, float | int) else None,  # lm-eval says 'N/A'
                    num_examples=int(results["n-samples"][task]["effective"]),
                    higher_is_better=bool(results["higher_is_better"][task][metric]),
                    majority=majority(evaluations[task], metric, [row["target"] for row in results["samples"][task]]),
                )
            )
    return found


def majority(task: InMemoryTask, metric: str, targets: list[Any]) -> float | None:
    """The majority-class baseline: the metric, if every item were answered with the most frequent gold class.

    Args:
        metric: acc, f1 (of class 1, as lm-eval computes it) or mcc.
        task: its choices name the classes.
        targets: target of each scored item: the class, or its text.

    Returns:
        None for other metrics, and where the choices are not the same for every item. Of classes equally frequent the
        lowest is taken.
    """
    choices = task.config.doc_to_choice
    fixed = task.OUTPUT_TYPE == "multiple_choice" and isinstance(choices, list)
    if metric not in ("acc", "f1", "mcc") or not fixed or task.multiple_input or task.multiple_target:
        return None
    golds = [choices.index(target) if isinstance(target, str) else int(target) for target in targets]
    counts = Counter(golds)
    answer = min(counts, key=lambda gold: (-counts[gold], gold))
    share = counts[answer] / len(golds)
    if metric == "mcc":
        return 0.0  # no answer but one: no correlation
    if metric == "f1":
        return 2 * share / (1 + share) if answer == 1 else 0.0  # of class 1: precision is its share, recall 1
    return share


def outcomes(results: Mapping[str, Any], tasks: Mapping[str, InMemoryTask]) -> list[Outcome]:
    """Outcomes, one row an item and filter.

    Args:
        results: lm-eval's.
        tasks: by name; each may name a field by which its items belong together.
    """
    found = []
    for task, samples in results["samples"].items():
        cluster = tasks[task].cluster
        chooses = results["configs"][task]["output_type"] == "multiple_choice"
        for sample in samples:
            response = sample["filtered_resps"]
            found.append(
                Outcome(
                    task=task,
                    filter=sample["filter"],
                    doc_id=int(sample["doc_id"]),
                    doc_hash=sample["doc_hash"],
                    target=str(sample["target"]),
                    response=str(response[0] if len(response) == 1 else response),
                    metrics={metric: sample[metric] for metric in sample["metrics"]},
                    choice=int(np.argmax([likelihood for likelihood, _ in response])) if chooses else None,
                    cluster=None if cluster is None else str(sample["doc"][cluster]),
                )
            )
    return found
