"""The tables of a study: a cell a row, a metric a column; as Markdown, CSV (numbers apart) and LaTeX.

results has the scores of the main stage, beside it those of the other stages; comparisons the paired comparisons of
every stage; rates what was found at each learning rate where rates were chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import pandas as pd

from bench.report.judge.comparisons import Judged, Measured, estimates, judge, significant_best
from bench.report.judge.metrics import FORGETTING, SHARE
from bench.report.judge.scores import Column, Found, average, average_scale, interquartile, sample_estimate
from bench.report.judge.statistics import Estimate, estimate
from bench.report.read.load import Cell, Study
from bench.report.tables.paired import comparison_numbers, comparison_table
from bench.report.tables.remarks import (
    comparison_note,
    failures,
    flagged,
    majority_texts,
    note,
    remarks,
    stack,
    unfinished,
)
from bench.report.tables.render import (
    DAGGER,
    DASH,
    FLOATS,
    INTERVAL,
    SD,
    bold,
    comment,
    deviation_text,
    interval_text,
    latex,
    markdown,
    prose,
)
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
CAPTIONS = {  # of the tables in LaTeX, by file and what stands behind a mean
    ("results", INTERVAL): "mean [95 % interval] over n seeds and the test items. Bold: significantly better than the "
    "runner-up, p < 0.05 after Holm's correction.",
    ("results", SD): "mean ± standard deviation over n seeds. Bold: significantly better than the runner-up over seeds "
    "and items, p < 0.05 after Holm's correction.",
    ("comparisons", INTERVAL): "differences [95 % interval] over n seeds and the items, with p-values; bold: "
    "significant after Holm's correction.",
    ("rates", INTERVAL): "mean on the validation split at each learning rate; bold: the best of a row.",
}
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


def _summary(judged: Judged, others: Mapping[str, Judged], at_edge: set[tuple[str, ...]], errors: str) -> pd.DataFrame:
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
    texts |= {name: [*of_cells, *missing] for name, of_cells in _metrics(judged, errors).items()}
    if any(forgetting(cell) for cell in cells):
        texts["forgetting"] = [*(_forgetting_text(cell, errors) for cell in cells), *missing]
    texts["n"] = [*(str(len(cell.runs)) for cell in cells), *missing]
    texts |= side_columns(everyone, others, errors)
    texts["trainable"] = [f"{trainable_parameters(cell):,}" for cell in everyone]
    if any(map(num_head, everyone)):
        texts["head"] = [f"{num_head(cell):,}" for cell in everyone]
    texts["init s"] = [*(f"{mean(run.init_seconds for run in cell.runs):.2f}" for cell in cells), *missing]
    texts["train s"] = [*(f"{mean(run.seconds('train') for run in cell.runs):.1f}" for cell in cells), *missing]
    return _with_majority(pd.DataFrame(texts), judged)


def _metrics(judged: Judged, errors: str) -> dict[str, list[str]]:
    """The texts of the score columns, by heading; a number that is not above the majority class has a dagger."""
    texts = {}
    for one in judged.measured:
        stuck = [False] * len(judged.cells)
        if one.column is not None:
            reached = [found.get(one.column) for found in judged.scores.found]
            pairs = zip(judged.cells, reached, strict=True)
            stuck = [found is not None and flagged(cell, found.above_majority) for cell, found in pairs]
        best = significant_best(one, judged.comparisons)
        shown = bold(errors_texts(judged, one, errors), best)
        texts[one.heading] = [f"{text} {DAGGER}" if dagger else text for text, dagger in zip(shown, stuck, strict=True)]
        if one.column is None:
            middle = [interquartile(found, judged.scores.averaged) for found in judged.scores.found]
            texts[f"IQM {SHARE.unit}"] = [
                one.scale.text(found.mean) if found and errors == SD else interval_text(found, one.scale)
                for found in middle
            ]
    return texts


def _forgetting_text(cell: Cell, errors: str) -> str:
    found = forgetting(cell)
    if errors == SD and found is not None:
        return deviation_text([run.forgetting for run in cell.runs if run.forgetting is not None], FORGETTING)
    return interval_text(found, FORGETTING)


def errors_texts(judged: Judged, one: Measured, errors: str) -> list[str]:
    """The texts of a column, a row a cell: mean with interval, or with standard deviation over seeds."""
    if errors == SD:
        return [DASH if s is None else deviation_text(s.values.tolist(), one.scale) for s in one.samples]
    return [interval_text(found, one.scale) for found in estimates(judged, one)]


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


def summaries(study: Study, judged: Stages, errors: str = INTERVAL) -> dict[Place, pd.DataFrame]:
    """The table to read of each task and model, from what `judge_stages` gives.

    Args:
        errors: what stands behind a mean: "interval", or "sd", the standard deviation over seeds.
    """
    at_edge = edges(study)
    others = [(stage, of) for stage, of in judged.items() if stage != study.stage]
    return {
        place: _summary(one, {stage: of[place] for stage, of in others if place in of}, at_edge, errors)
        for place, one in judged[study.stage].items()
    }


def write_tables(study: Study, folder: Path, judged: Stages | None = None, errors: str = INTERVAL) -> str:
    """Writes results, comparisons and rates, each as .md, .csv and .tex; returns the Markdown of results.

    A task and model has a table of its own in them. Rates are written where learning rates were chosen.

    Args:
        judged: what `judge_stages` gives; None judges here.
        errors: what stands behind a mean in results.tex: "interval", or "sd", the standard deviation over seeds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    judged = judge_stages(study) if judged is None else judged
    shown = summaries(study, judged)
    in_latex = shown if errors == INTERVAL else summaries(study, judged, errors)
    results = [
        Shown(", ".join(place), shown[place], remarks(one), in_latex[place])
        for place, one in judged[study.stage].items()
    ]
    text = _write(folder / "results", study.name, results, _numbers(judged), _lines(study, judged), errors)
    compared: list[Shown] = []
    frames = []
    for stage, of in judged.items() if len(judged) > 1 else [(None, judged[study.stage])]:
        for place, one in of.items():
            title = ", ".join([*([stage] if stage else []), *place])
            compared.append(Shown(title, comparison_table(one), [comparison_note(one)]))
            frames += list(comparison_numbers(one, stage, place))
    _write(folder / "comparisons", study.name, compared, pd.DataFrame(frames))
    if study.selection:
        tables = [Shown(", ".join(place), table) for place, table in rates_table(study)]
        _write(folder / "rates", study.name, tables, rates_numbers(study))
    return text


def of_the_study(study: Study, judged: Stages) -> list[str]:
    """Where the learning rates are from, and what was registered before the first run; a text may be empty."""
    if study.beside:
        return [*study.notes, *(f"{one.name}: {text}" for one in study.beside for text in _made(one, []) if text)]
    return [*_made(study, [stage for stage in judged if stage != study.stage])]


def _lines(study: Study, judged: Stages) -> list[str]:
    """The lines below all tables of results: what the columns are, how it was made, what failed."""
    columns = [column for one in judged[study.stage].values() for column in one.columns]
    every_failure = [record for _, record in study.members if record.status != COMPLETED] or study.failed
    used = [run for of in judged.values() for one in of.values() for cell in one.cells for run in cell.runs]
    lines = [
        *of_the_study(study, judged),
        note(columns, any(map(num_head, study.cells))),
        stack(used),
        unfinished(study.plan, {*study.unreadable, *(record.run_id for _, record in study.members)}),
        failures(every_failure),
    ]
    lines += [f"Failed, not counted: `{run.run_id}`: {(run.error or ErrorFacts()).message}" for run in study.failed]
    return [line for line in [*lines, *(f"Not readable, left out: `{name}`" for name in study.unreadable)] if line]


def _made(study: Study, others: Sequence[str]) -> tuple[str, str]:
    """How its learning rates were chosen, and what of it was registered."""
    records = [record for _, record in study.members]
    experiment = study.plan.experiment if study.plan else None
    return rate_remark(study, others), registered(records, registration(experiment))


class Shown(NamedTuple):
    """One table of a file.

    Attributes:
        title: task and model, and the stage where there are several; printed if there are several tables.
        below: the lines below it.
        in_latex: None for the same table.
    """

    title: str
    table: pd.DataFrame
    below: Sequence[str] = ()
    in_latex: pd.DataFrame | None = None


def _write(
    stem: Path,
    study: str,
    tables: Sequence[Shown],
    frame: pd.DataFrame,
    lines: Sequence[str] = (),
    errors: str = INTERVAL,
) -> str:
    """Writes one file of each kind, nothing where no table has a row.

    Args:
        stem: the files' path without its ending.
        study: names the tables in LaTeX.
        tables: of the file.
        frame: the numbers.
        lines: below all tables.
        errors: what stands behind a mean in LaTeX.

    Returns:
        The Markdown.
    """
    kept = [one for one in tables if len(one.table)]
    if not kept:
        return ""
    blocks, sources = [], []
    for one in kept:
        if len(kept) > 1:
            blocks.append(prose(f"## {one.title}"))
            sources.append(comment(one.title))
        blocks += [markdown(one.table), *map(prose, filter(None, one.below))]
        table = one.table if one.in_latex is None else one.in_latex
        caption = f"{study} ({one.title}): {CAPTIONS[stem.name, errors]}"
        sources.append(latex(table, caption, f"tab:{study}:{one.title}:{stem.name}"))
    text = "\n\n".join([*blocks, *map(prose, lines)]) + "\n"
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    stem.with_suffix(".tex").write_text("\n".join(sources), encoding="utf-8")
    frame.to_csv(stem.with_suffix(".csv"), index=False, lineterminator="\n", float_format=FLOATS)
    return text


def _shown_axes(cell: Cell) -> dict[str, Any]:
    """The axes without the learning rate, which has a column of its own."""
    return {axis: value for axis, value in cell.axes.items() if axis != "train.learning_rate"}
