"""The tables of a study: a cell a row, a metric a column; as Markdown, CSV (numbers apart) and LaTeX.

results has the scores of the main stage, beside it those of the other stages; comparisons the paired comparisons of
every stage; rates what was found at each learning rate where rates were chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd

from bench.report.judge.comparisons import Judged, judge, significant_best
from bench.report.judge.metrics import SHARE
from bench.report.judge.scores import Column, average, average_scale, interquartile, sample_estimate
from bench.report.judge.statistics import Estimate, seeds_alone
from bench.report.read.load import Cell, Study
from bench.report.tables.paired import comparison_numbers, comparison_table
from bench.report.tables.remarks import failures, flagged, majority_texts, note, remarks, stack
from bench.report.tables.render import DAGGER, DASH, FLOATS, bold, comment, interval_text, latex, markdown, prose
from bench.report.tables.stages import Sides, edges, rate_remark, rates_numbers, rates_table, sides_of
from bench.runs.record_parts import ErrorFacts
from bench.study.plan_file import SELECT

MAJORITY = "Majority class"
Place = tuple[str, str]  # the names of task and model
Stages = dict[str, dict[Place, Judged]]


def trainable_parameters(cell: Cell) -> int:
    """Trainable parameters of a run; the mean over seeds, which may give layers different ranks."""
    return round(mean(run.initialization.num_trainable for run in cell.runs))


def num_head(cell: Cell) -> int:
    """Parameters of the classification head, which are not part of the trainable ones."""
    return cell.runs[0].initialization.num_head


def numbers(study: Study) -> pd.DataFrame:
    """One row a cell and metric of one stage, every number unrounded; missing is NaN."""
    judged = [judge(part.cells) for part in study.by_task_and_model.values()]
    return _numbers(judged, study.stage)


def _numbers(tables: Iterable[Judged], stage: str) -> pd.DataFrame:
    rows = [
        _cell_numbers(cell) | {"stage": stage} | row | _cell_costs(cell)
        for judged in tables
        for index, cell in enumerate(judged.cells)
        for row in _score_numbers(judged, index)
    ]
    return pd.DataFrame(rows).astype({"num_examples": "Int64"}) if rows else pd.DataFrame()


def _score_numbers(judged: Judged, index: int) -> Iterable[dict[str, Any]]:
    """The metrics of one cell, then its average and interquartile mean if the table has them."""
    found, averaged = judged.scores.found[index], judged.scores.averaged
    for column, one in found.items():
        alone = seeds_alone(one.sample.values.tolist(), column.scale)
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
    """The table to read: strings, one row a cell, metrics as columns; the best of a metric marked with **.

    Args:
        study: better one of `Study.by_task_and_model`, whose cells share task and model, than a whole study of several.
    """
    return _summary(judge(study.cells), sides_of(study, study.cells[0].task_and_model), edges(study))


def _summary(judged: Judged, sides: Sides, at_edge: dict[tuple[str, ...], str]) -> pd.DataFrame:
    """The rows of the main stage, then the rows that only another stage has."""
    cells = judged.cells
    alone = sides.alone(cells)
    everyone = [*cells, *alone]
    missing = [DASH] * len(alone)
    table = pd.DataFrame({"method": [cell.label for cell in everyone]})
    for axis in _shown_axes(cells[0]):
        values = [_shown_axes(cell).get(axis) for cell in everyone]
        if any(value is not None for value in values):
            table[axis] = [DASH if value is None else str(value) for value in values]
    table["learning rate"] = [*(_rate_text(cell, at_edge) for cell in cells), *missing]
    for name, texts in _metrics(judged).items():
        table[name] = [*texts, *missing]
    table["n"] = [*(str(len(cell.runs)) for cell in cells), *missing]
    for name, texts in sides.columns(everyone).items():
        table[name] = texts
    table["trainable"] = [f"{trainable_parameters(cell):,}" for cell in everyone]
    if any(map(num_head, everyone)):
        table["head"] = [f"{num_head(cell):,}" for cell in everyone]
    table["init s"] = [*(f"{mean(run.init_seconds for run in cell.runs):.2f}" for cell in cells), *missing]
    table["train s"] = [*(f"{mean(run.seconds('train') for run in cell.runs):.1f}" for cell in cells), *missing]
    return _with_majority(table, judged)


def _metrics(judged: Judged) -> dict[str, list[str]]:
    """The texts of the score columns, by heading."""
    texts = {}
    for column in judged.measured:
        best = significant_best(column, judged.comparisons)
        if column.column is not None:
            texts[column.heading] = _metric(judged, column.column, best)
            continue
        averages = [None if sample is None else sample_estimate(sample, column.scale) for sample in column.samples]
        texts[column.heading] = bold([interval_text(found, column.scale) for found in averages], best)
        middle = [interquartile(found, judged.scores.averaged) for found in judged.scores.found]
        texts[f"IQM {SHARE.unit}"] = [interval_text(found, column.scale) for found in middle]
    return texts


def _metric(judged: Judged, column: Column, best: int | None) -> list[str]:
    """The texts of one metric; a number that is not above the majority class has a dagger."""
    found = [reached.get(column) for reached in judged.scores.found]
    texts = bold([interval_text(None if one is None else one.estimate, column.scale) for one in found], best)
    stuck = [
        one is not None and flagged(cell, one.above_majority) for cell, one in zip(judged.cells, found, strict=True)
    ]
    return [f"{text} {DAGGER}" if dagger else text for text, dagger in zip(texts, stuck, strict=True)]


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
    stages = {study.stage: study} | {s: study.at(s) for s in study.stages if s not in (SELECT, study.stage)}
    return {
        stage: {place: judge(part.cells) for place, part in one.by_task_and_model.items()}
        for stage, one in stages.items()
    }


def summaries(study: Study, judged: Stages) -> dict[Place, pd.DataFrame]:
    """The table of each task and model, as `summary` gives it, from what is judged already."""
    at_edge = edges(study)
    others = [(stage, of) for stage, of in judged.items() if stage != study.stage]
    return {
        place: _summary(one, Sides({stage: of[place] for stage, of in others if place in of}), at_edge)
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
    results = _write_results(study, judged, folder)
    compared = [
        (stage if len(judged) > 1 else None, place, one) for stage, of in judged.items() for place, one in of.items()
    ]
    _write(
        folder / "comparisons",
        [(_title(stage, place), comparison_table(one)) for stage, place, one in compared],
        pd.DataFrame([row for stage, place, one in compared for row in comparison_numbers(one, stage, place)]),
    )
    if study.selection:
        tables = rates_table(study)
        _write(folder / "rates", [(_title(None, place), table) for place, table in tables], rates_numbers(study))
    return results


def _write_results(study: Study, judged: Stages, folder: Path) -> str:
    blocks, sources = [], []
    main, others = judged[study.stage], {stage: of for stage, of in judged.items() if stage != study.stage}
    tables = summaries(study, judged)
    for place, one in main.items():
        table = tables[place]
        head = [prose(f"## {_title(None, place)}")] * (len(main) > 1)
        blocks += [*head, markdown(table), *map(prose, remarks(one))]
        sources += [comment(_title(None, place))] * (len(main) > 1) + [latex(table)]
    shown = [column for one in main.values() for column in one.columns]
    every_failure = [record for _, record in study.members if record.status != "completed"] or study.failed
    used = [run for of in judged.values() for one in of.values() for cell in one.cells for run in cell.runs]
    blocks += [
        prose(text)
        for text in (
            rate_remark(study, others),
            note(shown, any(map(num_head, study.cells))),
            stack(used),
            failures(every_failure),
        )
        if text
    ]
    blocks += [
        prose(f"Failed, not counted: `{run.run_id}`: {(run.error or ErrorFacts()).message}") for run in study.failed
    ]
    blocks += [prose(f"Not readable, left out: `{name}`") for name in study.unreadable]
    text = "\n\n".join(blocks) + "\n"
    (folder / "results.md").write_text(text, encoding="utf-8")
    (folder / "results.tex").write_text("".join(sources), encoding="utf-8")
    frame = pd.concat([_numbers(of.values(), stage) for stage, of in judged.items()], ignore_index=True)
    frame.to_csv(folder / "results.csv", index=False, lineterminator="\n", float_format=FLOATS)
    return text


def _title(stage: str | None, place: tuple[str, str]) -> str:
    return ", ".join([*([stage] if stage else []), *place])


def _write(stem: Path, tables: Sequence[tuple[str, pd.DataFrame]], frame: pd.DataFrame) -> None:
    """One file of each kind; nothing where no table has a row."""
    kept = [(title, table) for title, table in tables if len(table)]
    if not kept:
        return
    several = len(kept) > 1
    blocks = [text for title, table in kept for text in [*[prose(f"## {title}")] * several, markdown(table)]]
    stem.with_suffix(".md").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    sources = [text for title, table in kept for text in [*[comment(title)] * several, latex(table)]]
    stem.with_suffix(".tex").write_text("".join(sources), encoding="utf-8")
    frame.to_csv(stem.with_suffix(".csv"), index=False, lineterminator="\n", float_format=FLOATS)


def _rate_text(cell: Cell, at_edge: dict[tuple[str, ...], str]) -> str:
    if cell.learning_rate is None:
        return DASH
    return f"{cell.learning_rate:g}" + (" (edge)" if cell.group in at_edge else "")


def _cell_numbers(cell: Cell) -> dict[str, Any]:
    task, model = cell.task_and_model
    named = {"method": cell.method, "label": cell.label, "task": task, "model": model}
    return named | _shown_axes(cell) | {"learning_rate": cell.learning_rate}


def _cell_costs(cell: Cell) -> dict[str, Any]:
    return {
        "trainable_parameters": trainable_parameters(cell),
        "head_parameters": num_head(cell),
        "init_seconds": mean(run.init_seconds for run in cell.runs),
        "train_seconds": mean(run.seconds("train") for run in cell.runs),
    }


def _shown_axes(cell: Cell) -> dict[str, Any]:
    """The axes without the learning rate, which has a column of its own."""
    return {axis: value for axis, value in cell.axes.items() if axis != "train.learning_rate"}
