"""The records of a study as pandas data frames, a number a row: for a notebook or a paper's own figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from bench.process.places import located
from bench.report.read.load import existing_folder, planned
from bench.report.read.members import read_members
from bench.runs.record import ALIGNMENT, CURVE, Record, read_rows
from bench.runs.record_parts import Score
from bench.study.plan_file import RUN
from bench.study.selection import EVAL_LOSS

Results = str | Path
_RUN = {
    "study": "str",
    "stage": "str",
    "run_id": "str",
    "method": "str",
    "label": "str",
    "rank": "Int64",
    "task": "str",
    "model": "str",
    "seed": "Int64",
    "learning_rate": "float64",
    "status": "str",
}
_SCORE = {
    "dataset": "str",
    "metric": "str",
    "value": "float64",
    "stderr": "float64",
    "num_items": "Int64",
    "higher_is_better": "boolean",
    "num_trainable": "Int64",
    "retention_before": "float64",
    "retention_after": "float64",
    "seconds": "float64",
    "peak_bytes": "Int64",
    "curvature": "float64",
    "preconditioned_curvature": "float64",
}
_OF_RUN = {
    "num_trainable": "Int64",
    "seconds": "float64",
    "peak_bytes": "Int64",
    "init_seconds": "float64",
    "train_seconds": "float64",
    "eval_loss": "float64",
    "forgetting": "float64",
    "error": "str",
}


def frame(study: str, results_dir: Results | None = None) -> pd.DataFrame:
    """The scores of a study, one row a run and metric; a failed run has one row without a metric.

    Args:
        study: its name, such as demo, or its folder, such as runs/demo.
        results_dir: the results folder; None: runs, or results if only that has the study.

    Returns:
        The columns, missing values as NA:

        - study, stage, run_id: a run that two stages share has rows under both.
        - method: the name the command line knows, with a system's as in "lora_ga+lora_pro"; label: as papers print it.
        - rank: r of the adapters; NA for a method that has none.
        - task, model, seed: NA is the seed of a model that is not trained.
        - learning_rate: peak of the schedule; NA where nothing is trained.
        - status: completed, failed or interrupted.
        - dataset, metric: a scored dataset of the task and its metric, with lm-eval's filter behind a comma; or
          eval_loss, of no dataset, which every trained run has: nats per token (per example for an encoder).
        - value, stderr: as the record has them, shares from 0 to 1; stderr over items, NA where it is not known.
        - num_items: scored items.
        - higher_is_better.
        - num_trainable: trainable parameters, without a classification head.
        - retention_before, retention_after: loss on text of the pretraining kind before and after training, in nats per
          token; NA where it was not measured.
        - seconds: wall time of all phases; peak_bytes: the highest memory of any phase.
        - curvature, preconditioned_curvature: the largest eigenvalue of the loss's Hessian at step 0, plain and as Adam
          scales it; NA where it was not measured.

    Raises:
        ReportError: there is no such study; the message names those that there are.
    """

    def rows(record: Record, folder: Path) -> Iterator[dict[str, Any]]:
        about = _cost(record) | {
            "retention_before": record.retention.loss_before if record.retention else None,
            "retention_after": record.retention.loss_after if record.retention else None,
            "curvature": record.curvature and record.curvature.plain,
            "preconditioned_curvature": record.curvature and record.curvature.preconditioned,
        }
        for score in [*record.scores, *eval_loss_score(record)]:
            yield about | {
                "dataset": score.task or None,
                "metric": score.metric,
                "value": score.value,
                "stderr": score.stderr,
                "num_items": score.num_examples if score.task else None,
                "higher_is_better": score.higher_is_better,
            }
        if not record.scores and record.eval_loss is None:
            yield about

    return _frame(study, results_dir, rows, _SCORE, "learning_rate")


def runs(study: str, results_dir: Results | None = None) -> pd.DataFrame:
    """The runs of a study, one row a run, failed ones too.

    Args:
        study: its name, such as demo, or its folder, such as runs/demo.
        results_dir: the results folder; None: runs, or results if only that has the study.

    Returns:
        The columns that name the run as in `frame`, stage with all stages that use it, and:

        - num_trainable, peak_bytes: as in `frame`.
        - seconds: wall time of all phases; init_seconds: of calibration and factorisation; train_seconds: of training.
        - eval_loss: after the last step; forgetting: retention_after - retention_before of `frame`.
        - error: why it failed.

    Raises:
        ReportError: there is no such study; the message names those that there are.
    """

    def rows(record: Record, folder: Path) -> Iterator[dict[str, Any]]:
        yield {
            **_cost(record),
            "init_seconds": record.init_seconds,
            "train_seconds": record.seconds("train"),
            "eval_loss": record.eval_loss,
            "forgetting": record.forgetting,
            "error": str(record.error) if record.error else None,
        }

    found = _frame(study, results_dir, rows, _OF_RUN, "learning_rate")
    stages = found.dropna(subset="stage").groupby("run_id")["stage"].agg(", ".join)
    one_each = found.drop_duplicates("run_id", ignore_index=True)
    return one_each.assign(stage=one_each["run_id"].map(stages).astype("str"))


def curves(study: str, results_dir: Results | None = None) -> pd.DataFrame:
    """The loss curves of a study, one row a run and step.

    Args:
        study: its name, such as demo, or its folder, such as runs/demo.
        results_dir: the results folder; None: runs, or results if only that has the study.

    Returns:
        The columns that name the run as in `frame`, the peak of its schedule as peak_learning_rate, and:

        - step: from 1; loss: of the step's batch, in nats per label token (per example for an encoder).
        - eval_loss: on examples that are not trained on; NA at steps where it was not measured.
        - learning_rate: at this step; grad_norm: of all trained parameters, before clipping.
        - tokens: trained on up to this step.
        - seconds: of training up to this step, without initialisation; init_seconds: what that took.

    Raises:
        ReportError: there is no such study; the message names those that there are.
    """

    def rows(record: Record, folder: Path) -> Iterator[dict[str, Any]]:
        for row in read_rows(folder / CURVE):
            yield {"init_seconds": record.init_seconds} | row

    columns = dict.fromkeys("loss eval_loss learning_rate grad_norm tokens seconds init_seconds".split(), "float64")
    return _frame(study, results_dir, rows, {"step": "Int64"} | columns)


def alignment(study: str, results_dir: Results | None = None) -> pd.DataFrame:
    """The alignment measures of a study, one row a run, step, layer and measure.

    Args:
        study: its name, such as demo, or its folder, such as runs/demo.
        results_dir: the results folder; None: runs, or results if only that has the study.

    Returns:
        The columns that name the run as in `frame`, the peak of its schedule as peak_learning_rate, and:

        - step: 0 is before training.
        - layer: its name in the model; "all" is over all adapted layers taken as one vector.
        - measure: such as cosine, of the gradient that the factors induce on W and the full gradient
          (bench.train.alignment has them all).
        - value: NA where it is not defined, as the cosine of a gradient that is zero.

    Raises:
        ReportError: there is no such study; the message names those that there are.
    """

    def rows(record: Record, folder: Path) -> Iterator[dict[str, Any]]:
        yield from read_rows(folder / ALIGNMENT)

    columns = {"step": "Int64", "layer": "str", "measure": "str", "value": "float64"}
    return _frame(study, results_dir, rows, columns)


def _cost(record: Record) -> dict[str, Any]:
    """Trainable parameters, seconds and memory of a run; None for what it did not come to."""
    seconds = [phase.seconds for phase in record.phases.values()]
    peaks = [phase.peak_bytes for phase in record.phases.values() if phase.peak_bytes is not None]
    known = "num_trainable" in record.initialization.model_fields_set
    return {
        "num_trainable": record.initialization.num_trainable if known else None,
        "seconds": sum(seconds) if seconds else None,
        "peak_bytes": max(peaks, default=None),
    }


def eval_loss_score(record: Record) -> list[Score]:
    """The eval loss of a trained run as a score of no dataset; none where it was not measured."""
    if record.eval_loss is None:
        return []
    return [Score(task="", metric=EVAL_LOSS, value=record.eval_loss, higher_is_better=False)]


def _frame(
    study: str,
    results_dir: Results | None,
    rows: Callable[[Record, Path], Iterator[dict[str, Any]]],
    columns: dict[str, str],
    peak: str = "peak_learning_rate",
) -> pd.DataFrame:
    """One frame of the dicts that `rows` yields for each run, with the columns that name the run in front.

    Args:
        study: name or folder.
        results_dir: the results folder; None: where `located` finds the study.
        rows: of a record and its folder.
        columns: names and dtypes of what `rows` yields.
        peak: what the column of the schedule's peak is called.
    """
    root, study = located(study, None if results_dir is None else Path(results_dir))
    folder = existing_folder(root, study)
    plan = planned(folder)
    named = {peak if name == "learning_rate" else name: kind for name, kind in _RUN.items()}
    stages_of: dict[str | None, list[str | None]] = defaultdict(list)
    for run in plan.runs if plan else ():
        stages_of[run.run_id].append(run.stage)
    found: dict[str, list[Any]] = {name: [] for name in named | columns}
    for path, record in read_members(folder)[0]:
        stages = stages_of.get(record.run_id, [None]) if plan else [RUN]
        values = list(rows(record, path))
        config, identity = record.config, record.identity
        about = {
            "study": study,
            "run_id": record.run_id,
            "method": record.method,
            "label": record.label,
            "rank": config.rank.r if "rank" in identity else None,
            "task": config.task.name,
            "model": config.model.name,
            "seed": config.seed if "seed" in identity else None,
            peak: config.train.learning_rate if "train" in identity else None,
            "status": record.status,
        }
        for stage in dict.fromkeys(stages):
            for row in values:
                one = about | row | {"stage": stage}
                for name, column in found.items():
                    column.append(one.get(name))
    return pd.DataFrame({name: pd.Series(found[name], dtype=kind) for name, kind in (named | columns).items()})
