"""The figures of a study, from its records alone: PNG, PDF, and the numbers of each beside it as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from bench.report.figures import axis, cost, curvature, gradient, loss, rates, retention
from bench.report.figures.choice import CURVATURE, RATES, Choice, Place, best_cells, best_selections, choose
from bench.report.figures.draw import styled
from bench.report.read.curvature import rates_and_curvatures
from bench.report.read.curves import read_curves, target_loss
from bench.report.read.load import Cell, Study

COLOURS_KEPT = 256  # in a PNG: a third of the bytes
Drawn = tuple[str, Figure | None, pd.DataFrame]


def drawn_places(study: Study) -> list[Place]:
    """Task and model of everything that can be drawn, in their order."""
    return sorted({*study.by_task_and_model, *study.selection_by_place})


def write_figures(study: Study, folder: Path, choice: Choice | None = None) -> list[Path]:
    """Writes every figure that the records have data for, each as NAME.png, NAME.pdf and NAME.csv.

    Of the selection stage only the learning rates are drawn, and the best ones against the curvature; all else is of
    the study's own stage.

    Args:
        study: with the cells of its main stage.
        folder: is made if it does not exist.
        choice: what is drawn of a large study; None to choose here.

    Returns:
        The PNG files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = drawn_places(study)
    choice = choose(study, places) if choice is None else choice
    written = []
    for place in choice.places:
        for name, figure, numbers, left_out in figures_of(study, place, choice):
            if figure is not None:
                stem = "-".join([name, *place]).replace("/", "-") if len(places) > 1 else name
                written.append(_save(figure, numbers, folder / stem, left_out))
    return written


def figures_of(study: Study, place: Place, choice: Choice) -> Iterator[tuple[str, Figure | None, pd.DataFrame, str]]:
    """Draws the chosen kinds of figures of one task and model, one after another.

    Args:
        study: with the cells of its main stage.
        place: names of task and model.
        choice: the kinds, and how many rows.

    Yields:
        The kind; the figure, None where the records have no data for it; its numbers; which rows are left out, in
        words, "" for none.
    """
    part = study.by_task_and_model.get(place)
    cells, selections = part.cells if part else [], study.selection_by_place.get(place, [])
    shown, curves = best_cells(cells, choice.most_cells), best_selections(selections, choice.most_cells)
    data = rates.rates_data(curves if RATES in choice.kinds else [])
    of_rates: Drawn = (RATES, rates.rates(curves, place, data), data)
    points = rates_and_curvatures(study, selections if CURVATURE in choice.kinds else [])
    explained = curvature.curvature_data(points)
    of_curvature: Drawn = (CURVATURE, curvature.curvature(place, explained), explained)
    for name, figure, numbers in chain(_of_cells(shown, choice.kinds), [of_rates, of_curvature]):
        few, all_rows = (len(curves), len(selections)) if name == RATES else (len(shown), len(cells))
        few = all_rows if name == CURVATURE else few
        yield name, figure, numbers, f"the best of each method, {few} of {all_rows} rows" if few < all_rows else ""


def _of_cells(cells: list[Cell], kinds: Sequence[str]) -> Iterator[Drawn]:
    """The figures of one task and model; every file is read once, and none that no figure needs."""
    wanted = set(kinds)
    if wanted & {"convergence", "target"}:
        curves = read_curves(cells)
        if "convergence" in wanted:
            losses = loss.convergence_data(cells, curves)
            yield "convergence", loss.convergence(cells, losses), losses
        if "target" in wanted and (aim := target_loss(cells, curves)):
            reached = loss.target_data(cells, curves, aim)
            yield "target", loss.target(cells, reached, aim), reached
    if wanted & {"alignment", "layers", "features"}:
        measures = gradient.read_measures(cells)
        for name, of, draw in (
            ("alignment", gradient.over_layers(measures, gradient.ALIGNMENTS), gradient.alignment),
            ("layers", gradient.layers_data(cells, measures), gradient.layers),
            ("features", gradient.over_layers(measures, gradient.NORMS), gradient.features),
        ):
            if name in wanted:
                yield name, draw(cells, of), of
    for name, data, drawn in (
        ("axis", axis.axis_data, axis.score_against_axis),
        ("score", cost.score_data, cost.score_against_parameters),
        ("retention", retention.retention_data, retention.score_against_forgetting),
        ("cost", cost.cost_data, cost.cost),
    ):
        if name in wanted:
            numbers = data(cells)
            yield name, drawn(cells, numbers), numbers


@styled()
def _save(figure: Figure, data: pd.DataFrame, stem: Path, left_out: str) -> Path:
    """Equal figures give equal bytes: no dates. Rows that are left out are named in the title."""
    if left_out:
        figure.suptitle(f"{figure.get_suptitle()}\n{left_out}")
    png = stem.parent / f"{stem.name}.png"
    figure.savefig(png, metadata={"Software": None})
    Image.open(png).convert("RGB").quantize(COLOURS_KEPT, dither=Image.Dither.NONE).save(png, optimize=True)
    figure.savefig(stem.parent / f"{stem.name}.pdf", metadata={"CreationDate": None})
    data.to_csv(stem.parent / f"{stem.name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    return png
