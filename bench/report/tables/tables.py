"""The tables of a study: a cell a row, a metric a column; as Markdown, CSV (numbers apart) and LaTeX.

results has the scores of the main stage, beside it those of the other stages; comparisons the paired comparisons of
every stage; rates what was found at each learning rate where rates were chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd

from bench.report.judge.comparisons import Judged, judge, significant_best
from bench.report.judge.metrics import FORGETTING, SHARE
from bench.report.judge.scores import Column, Found, average, average_scale, interquartile, sample_estimate
from bench.report.judge.statistics import Estimate, estimate
from bench.report.read.load import Cell, Study
from bench.report.tables.paired import comparison_numbers, comparison_table
from bench.report.tables.remarks import comparison_note, failures, flagged, majority_texts, note, remarks, stack
from bench.report.tables.render import DAGGER, DASH, FLOATS, bold, comment, interval_text, latex, markdown, prose
from bench.report.tables.stages import (
    alone,
    edges,
    rate_remark,
    rate_text,
    rates_numbers,
    rates_table,
    side_columns,
)
from bench.runs.record import COMPLETED
from bench.runs.record_parts import ErrorFacts
from bench.study.plan_file import SEARCH, SELECT
from bench.study.registration import registered, registration

MAJORITY = "Majority class"
Place = tuple[str, str]  # the names of task and model
Stages = dict[str, dict[Place, Judged]]


def trainable_parameters(cell: Cell) -> int:
    """Trainable parameters of a run; the mean over seeds, which may give layers different ranks."""
    return round(mean(run.initialization.num_trainable for run in cell.runs))


def num_head(cell: Cell) -> int:
    """Parameters of the classification head, which are not part of the trainable ones."""
    return cell.runs[0].initialization.num_head


def forgetting(cell: Cell) -> Estimate | None:
    """By how much the loss on text of the pretraining kind rose, over seeds; None where a run does not know."""
    values = [found for run in cell.runs if (found := run.forgetting) is not None]
    return estimate(values, None, FORGETTING) if values and len(values) == len(cell.runs) else None


def numbers(study: Study) -> pd.DataFrame:
    """One row a cell and metric of one stage, every number unrounded; missing is NaN."""
    parts = study.by_task_and_model
    return _numbers({study.stage: {place: judge(part.cells, study.pairing) for place, part in parts.items()}})


def _numbers(judged: Stages) -> pd.DataFrame:
    rows = [
        {"method": cell.method, "label": cell.label, "task": task, "model": model}
        | _shown_axes(cell)
        | {"learning_rate": cell.learning_rate, "stage": stage}
        | row
        | {"trainable_parameters": trainable_parameters(cell), "head_parameters": num_head(cell)}
        | {"init_seconds": mean(run.init_seconds for run in cell.runs)}
        | {"train_seconds": mean(run.seconds("train") for run in cell.runs)}
        | _forgetting_numbers(cell)
        for stage, of in judged.items()
        for (task, model), one in of.items()
        for cell, found in zip(one.cells, one.scores.found, strict=True)
        for row in _score_numbers(found, one.scores.averaged)
    ]
    return pd.DataFrame(rows).astype({"num_examples": "Int64"}) if rows else pd.DataFrame()


def _forgetting_numbers(cell: Cell) -> dict[str, float | None]:
    found = forgetting(cell)
    return (
        {} if found is None else {"forgetting": found.mean, "forgetting_low": found.low, "forgetting_high": found.high}
    )


def _score_numbers(found: Mapping[Column, Found], averaged: Sequence[Column]) -> Iterator[dict[str, Any]]:
    """The metrics of one cell, then its average and interquartile mean if the table has them."""
    for column, one in found.items():
        alone = estimate(one.sample.values.tolist(), None, column.scale, chosen=one.sample.chosen)
        yield {
            "dataset": column.dataset,
            "metric": column.metric,
            "higher_is_better": column.higher_is_better,
            **_estimate_numbers(one.estimate),
            "seeds_low": alone.low,
            "seeds_high": alone.high,
            "items_stderr": one.sample.stderr,
            "num_examples": one.num_examples,
            "majority": one.majority,
            "above_majority": one.above_majority,
        }
    if averaged and (sample := average(found, averaged)) is not None:
        means = {"mean": sample_estimate(sample, average_scale(averaged)), "iqm": interquartile(found, averaged)}
        for metric, estimated in means.items():
            if estimated is not None:
                about = {"dataset": "average", "metric": metric, "higher_is_better": True}
                yield about | _estimate_numbers(estimated)


def _estimate_numbers(found: Estimate) -> dict[str, Any]:
    return {"mean": found.mean, "low": found.low, "high": found.high, "interval_over": found.over, "n": found.n}


def summary(study: Study) -> pd.DataFrame:
    """The table to read of a study's first task and model: strings, a row a cell, a column a metric, ** the best."""
    return next(iter(summaries(study, judge_stages(study)).values()))


def _summary(judged: Judged, others: Mapping[str, Judged], at_edge: set[tuple[str, ...]]) -> pd.DataFrame:
    """The rows of the main stage, then the rows that only another stage has."""
    cells = judged.cells
    everyone = [*cells, *alone(cells, others)]
    missing = [DASH] * (len(everyone) - len(cells))
    texts = {"method": [cell.label for cell in everyone]}
    for axis in _shown_axes(cells[0]):
        values = [_shown_axes(cell).get(axis) for cell in everyone]
        if any(value is not None for value in values):
            texts[axis] = [DASH if value is None else str(value) for value in values]
    texts["learning rate"] = [*(rate_text(cell, at_edge) for cell in cells), *missing]
    texts |= {name: [*of_cells, *missing] for name, of_cells in _metrics(judged).items()}
    if any(found := [forgetting(cell) for cell in cells]):
        texts["forgetting"] = [*(interval_text(one, FORGETTING) for one in found), *missing]
    texts["n"] = [*(str(len(cell.runs)) for cell in cells), *missing]
    texts |= side_columns(everyone, others)
    texts["trainable"] = [f"{trainable_parameters(cell):,}" for cell in everyone]
    if any(map(num_head, everyone)):
        texts["head"] = [f"{num_head(cell):,}" for cell in everyone]
    texts["init s"] = [*(f"{mean(run.init_seconds for run in cell.runs):.2f}" for cell in cells), *missing]
    texts["train s"] = [*(f"{mean(run.seconds('train') for run in cell.runs):.1f}" for cell in cells), *missing]
    return _with_majority(pd.DataFrame(texts), judged)


def _metrics(judged: Judged) -> dict[str, list[str]]:
    """The texts of the score columns, by heading; a number that is not above the majority class has a dagger."""
    texts = {}
    for one in judged.measured:
        if one.column is None:
            estimates = [None if sample is None else sample_estimate(sample, one.scale) for sample in one.samples]
            stuck = [False] * len(estimates)
        else:
            reached = [found.get(one.column) for found in judged.scores.found]
            estimates = [None if found is None else found.estimate for found in reached]
            pairs = zip(judged.cells, reached, strict=True)
            stuck = [found is not None and flagged(cell, found.above_majority) for cell, found in pairs]
        best = significant_best(one, judged.comparisons)
        shown = bold([interval_text(found, one.scale) for found in estimates], best)
        texts[one.heading] = [f"{text} {DAGGER}" if dagger else text for text, dagger in zip(shown, stuck, strict=True)]
        if one.column is None:
            middle = [interquartile(found, judged.scores.averaged) for found in judged.scores.found]
            texts[f"IQM {SHARE.unit}"] = [interval_text(found, one.scale) for found in middle]
    return texts


def _with_majority(table: pd.DataFrame, judged: Judged) -> pd.DataFrame:
    """The table with a row of majority-class baselines below the untrained methods, if a column has one."""
    columns = judged.columns
    texts = majority_texts(judged.scores, columns)
    if not any(texts):
        return table
    by_heading = {one.heading: text for one, text in zip(judged.measured, texts, strict=False) if text}
    row = {name: by_heading.get(name, DASH) for name in table.columns} | {"method": MAJORITY}
    place = next((i for i, cell in enumerate(judged.cells) if cell.trained), len(judged.cells))
    return pd.concat([table[:place], pd.DataFrame([row]), table[place:]], ignore_index=True)


def judge_stages(study: Study) -> Stages:
    """Scores and comparisons of the study's own stage, and of the others beside the selection."""
    stages = {study.stage: study} | {s: study.at(s) for s in study.stages if s not in (SEARCH, SELECT, study.stage)}
    return {
        stage: {place: judge(part.cells, study.pairing) for place, part in one.by_task_and_model.items()}
        for stage, one in stages.items()
    }


def summaries(study: Study, judged: Stages) -> dict[Place, pd.DataFrame]:
    """The table to read of each task and model, from what `judge_stages` gives."""
    at_edge = edges(study)
    others = [(stage, of) for stage, of in judged.items() if stage != study.stage]
    return {
        place: _summary(one, {stage: of[place] for stage, of in others if place in of}, at_edge)
        for place, one in judged[study.stage].items()
    }


def write_tables(study: Study, folder: Path, judged: Stages | None = None) -> str:
    """Writes results, comparisons and rates, each as .md, .csv and .tex; returns the Markdown of results.

    A task and model has a table of its own in them. Rates are written where learning rates were chosen.

    Args:
        judged: what `judge_stages` gives; None judges here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    judged = judge_stages(study) if judged is None else judged
    shown = summaries(study, judged)
    results = [(", ".join(place), shown[place], remarks(one)) for place, one in judged[study.stage].items()]
    text = _write(folder / "results", results, _numbers(judged), _lines(study, judged))
    compared: list[tuple[str, pd.DataFrame, list[str]]] = []
    frames = []
    for stage, of in judged.items() if len(judged) > 1 else [(None, judged[study.stage])]:
        for place, one in of.items():
            compared.append(
                (", ".join([*([stage] if stage else []), *place]), comparison_table(one), [comparison_note(one)])
            )
            frames += list(comparison_numbers(one, stage, place))
    _write(folder / "comparisons", compared, pd.DataFrame(frames))
    if study.selection:
        tables = [(", ".join(place), table, ()) for place, table in rates_table(study)]
        _write(folder / "rates", tables, rates_numbers(study))
    return text


def of_the_study(study: Study, judged: Stages) -> list[str]:
    """Where the learning rates are from, and what was registered before the first run; a text may be empty."""
    planned = registration(study.plan.experiment if study.plan else None)
    return [
        rate_remark(study, [stage for stage in judged if stage != study.stage]),
        registered([record for _, record in study.members], planned),
    ]


def _lines(study: Study, judged: Stages) -> list[str]:
    """The lines below all tables of results: what the columns are, how it was made, what failed."""
    columns = [column for one in judged[study.stage].values() for column in one.columns]
    every_failure = [record for _, record in study.members if record.status != COMPLETED] or study.failed
    used = [run for of in judged.values() for one in of.values() for cell in one.cells for run in cell.runs]
    lines = [
        *of_the_study(study, judged),
        note(columns, any(map(num_head, study.cells))),
        stack(used),
        failures(every_failure),
    ]
    lines += [f"Failed, not counted: `{run.run_id}`: {(run.error or ErrorFacts()).message}" for run in study.failed]
    return [line for line in [*lines, *(f"Not readable, left out: `{name}`" for name in study.unreadable)] if line]


def _write(
    stem: Path,
    tables: Sequence[tuple[str, pd.DataFrame, Sequence[str]]],
    frame: pd.DataFrame,
    lines: Sequence[str] = (),
) -> str:
    """Writes one file of each kind, nothing where no table has a row.

    Args:
        stem: the files' path without its ending.
        tables: titles, which are printed if there are several, tables, and the lines below each.
        frame: the numbers.
        lines: below all tables.

    Returns:
        The Markdown.
    """
    kept = [(title, table, below) for title, table, below in tables if len(table)]
    if not kept:
        return ""
    blocks, sources = [], []
    for title, table, below in kept:
        if len(kept) > 1:
            blocks.append(prose(f"## {title}"))
            sources.append(comment(title))
        blocks += [markdown(table), *map(prose, filter(None, below))]
        sources.append(latex(table))
    text = "\n\n".join([*blocks, *map(prose, lines)]) + "\n"
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    stem.with_suffix(".tex").write_text("".join(sources), encoding="utf-8")
    frame.to_csv(stem.with_suffix(".csv"), index=False, lineterminator="\n", float_format=FLOATS)
    return text


def _shown_axes(cell: Cell) -> dict[str, Any]:
    """The axes without the learning rate, which has a column of its own."""
    return {axis: value for axis, value in cell.axes.items() if axis != "train.learning_rate"}
