"""Writes a whole report: tables, figures and the page of a study, from its records alone."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from bench.report.figures import drawn_places, write_figures
from bench.report.figures.choice import choose
from bench.report.page import PageTable, write_page
from bench.report.papers.published import shown_tables, write_paper_tables
from bench.report.read.load import ReportError, Study
from bench.report.tables.paired import comparison_table
from bench.report.tables.remarks import comparison_note, note, remarks
from bench.report.tables.stages import rates_table
from bench.report.tables.tables import Stages, judge_stages, num_head, of_the_study, summaries, write_tables

TABLES, FIGURES = "tables", "figures"


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        text: the study's table, and the table beside the paper's numbers if there are any, as Markdown.
        note: which figures and rows are left out; "" for none.
    """

    text: str
    figures: list[Path]
    page: Path
    note: str = ""


def write_report(study: Study, folder: Path, every_figure: bool = False) -> Report:
    """Writes folder/tables, folder/figures and folder/index.html; equal records make equal bytes.

    The report is written into a temporary folder first; its files replace the earlier ones when all are complete.

    Args:
        every_figure: draw also what is left out of a large study's figures.

    Raises:
        ReportError: the folder cannot be written, or the disk is full; the earlier report is as it was.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".report-", dir=folder) as name:
            scratch = Path(name)
            report = _write(study, scratch, every_figure)
            files = sorted(path.relative_to(scratch) for path in scratch.rglob("*") if path.is_file())
            for file in files:
                (folder / file).parent.mkdir(exist_ok=True)
                (scratch / file).replace(folder / file)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ReportError(f"{folder} cannot be written: {reason}; an earlier report is as it was") from None
    figures = [folder / path.relative_to(scratch) for path in report.figures]
    return replace(report, figures=figures, page=folder / report.page.relative_to(scratch))


def _write(study: Study, folder: Path, every_figure: bool) -> Report:
    judged = judge_stages(study)
    text = write_tables(study, folder / TABLES, judged)
    paper = write_paper_tables(study, folder / TABLES)
    choice = choose(study, drawn_places(study), every_figure)
    figures = write_figures(study, folder / FIGURES, choice)
    page = write_page(study, page_tables(study, judged), figures, folder, choice.note)
    return Report("\n".join(part for part in (text, paper) if part), figures, page, choice.note)


def page_tables(study: Study, judged: Stages) -> list[PageTable]:
    """The tables of the page: scores and comparisons of each task and model, learning rates, the paper's."""
    shown: list[PageTable] = []
    for place, table in summaries(study, judged).items():
        one, name = judged[study.stage][place], ", ".join(place)
        notes = [
            *remarks(one),
            *filter(None, of_the_study(study, judged)),
            note(one.columns, any(map(num_head, one.cells))),
        ]
        shown.append((f"Scores: {name}", table, notes))
        shown.append((f"Comparisons: {name}", comparison_table(one), [comparison_note(one)]))
    rates = rates_table(study) if study.selection else []
    shown += [(f"Learning rates: {', '.join(place)}", table, []) for place, table in rates]
    shown += shown_tables(study)
    return [(title, table, notes) for title, table, notes in shown if len(table)]
