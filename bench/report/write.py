"""Everything that a report is: tables, figures and the page of a study, from its records alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.report.figures import write_figures
from bench.report.load import Study
from bench.report.page import PageTable, write_page
from bench.report.paired import comparison_table
from bench.report.published import shown_tables, write_paper_tables
from bench.report.remarks import note, remarks
from bench.report.stages import rates_table
from bench.report.tables import Stages, judge_stages, num_head, summaries, write_tables

TABLES, FIGURES = "tables", "figures"


@dataclass(frozen=True)
class Report:
    """What was written; `text` is the study's table, and the paper's beside it where there is one, as Markdown."""

    text: str
    figures: list[Path]
    page: Path


def write_report(study: Study, folder: Path) -> Report:
    """Writes folder/tables, folder/figures and folder/index.html; equal records make equal bytes."""
    judged = judge_stages(study)
    text = write_tables(study, folder / TABLES, judged)
    paper = write_paper_tables(study, folder / TABLES)
    figures = write_figures(study, folder / FIGURES)
    page = write_page(study, page_tables(study, judged), figures, folder)
    return Report("\n".join(part for part in (text, paper) if part), figures, page)


def page_tables(study: Study, judged: Stages) -> list[PageTable]:
    """The tables of the page: scores and comparisons of each task and model, learning rates, the paper's."""
    shown: list[PageTable] = []
    for place, table in summaries(study, judged).items():
        one, name = judged[study.stage][place], ", ".join(place)
        notes = [*remarks(one), note(one.columns, any(map(num_head, one.cells)))]
        shown.append((f"Scores: {name}", table, notes))
        shown.append((f"Comparisons: {name}", comparison_table(one), []))
    rates = rates_table(study) if study.selection else []
    shown += [(f"Learning rates: {', '.join(place)}", table, []) for place, table in rates]
    shown += shown_tables(study)
    return [(title, table, notes) for title, table, notes in shown if len(table)]
