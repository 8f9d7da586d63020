"""The figures of a study, from its records alone: PNG, PDF, and the numbers of each beside it as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from bench.report.figures import cost, gradient, loss, rates
from bench.report.figures.choice import RATES, Choice, Place, best_cells, best_selections, choose
from bench.report.figures.cost import score_against_parameters
from bench.report.figures.draw import styled
from bench.report.figures.gradient import alignment
from bench.report.figures.loss import convergence
from bench.report.read.curves import read_curves, target_loss
from bench.report.read.load import Cell, Study
from bench.study.selection import Selection

__all__ = ["alignment", "convergence", "drawn_places", "score_against_parameters", "write_figures"]

COLOURS_KEPT = 256  # in a PNG: a third of the bytes
Drawn = tuple[str, Figure | None, pd.DataFrame]


def drawn_places(study: Study) -> list[Place]:
    """Task and model of everything that can be drawn, in their order."""
    return sorted({*study.by_task_and_model, *rates.selections_by_place(study)})


def write_figures(study: Study, folder: Path, choice: Choice | None = None) -> list[Path]:
    """Writes every figure that the records have data for, each as NAME.png, NAME.pdf and NAME.csv; returns the PNGs.

    Of the selection stage only the learning rates are drawn; all else is of the study's own stage.

    Args:
        choice: what is drawn of a study that is too large; None chooses here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    by_place = rates.selections_by_place(study)
    parts = study.by_task_and_model
    places = drawn_places(study)
    choice = choose(study, places) if choice is None else choice
    for place in choice.places:
        cells = parts[place].cells if place in parts else []
        shown = best_cells(cells, choice.most_cells)
        left_out = f"the best of each method, {len(shown)} of {len(cells)} rows" if len(shown) < len(cells) else ""
        drawn = chain(_of_cells(shown, choice.kinds, left_out), _of_rates(by_place.get(place, []), place, choice))
        for name, figure, numbers in drawn:
            if figure is None:
                continue
            stem = "-".join([name, *place]).replace("/", "-") if len(places) > 1 else name
            written.append(_save(figure, numbers, folder / stem))
    return written


def _of_rates(selections: list[Selection], place: Place, choice: Choice) -> Iterator[Drawn]:
    shown = best_selections(selections, choice.most_cells)
    if RATES in choice.kinds:
        data = rates.rates_data(shown)
        left_out = f"the best of each method, {len(shown)} of {len(selections)} rows"
        figure = rates.rates(shown, place, data)
        yield RATES, _said(figure, left_out if len(shown) < len(selections) else ""), data


@styled()
def _said(figure: Figure | None, left_out: str) -> Figure | None:
    """The figure, with what is left out in its title."""
    if figure is not None and left_out:
        figure.suptitle(f"{figure.get_suptitle()}\n{left_out}")
    return figure


def _of_cells(cells: list[Cell], kinds: Sequence[str], left_out: str) -> Iterator[Drawn]:
    """The figures of one task and model; every file is read once, and none that no figure needs."""
    for name, figure, numbers in _by_kind(cells, kinds):
        yield name, _said(figure, left_out), numbers


def _by_kind(cells: list[Cell], kinds: Sequence[str]) -> Iterator[Drawn]:
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
            ("alignment", gradient.alignment_data(measures), gradient.alignment),
            ("layers", gradient.layers_data(cells, measures), gradient.layers),
            ("features", gradient.features_data(measures), gradient.features),
        ):
            if name in wanted:
                yield name, draw(cells, of), of
    if "score" in wanted:
        scored = cost.score_data(cells)
        yield "score", cost.score_against_parameters(cells, scored), scored
    if "cost" in wanted:
        costs = cost.cost_data(cells)
        yield "cost", cost.cost(cells, costs), costs


@styled()
def _save(figure: Figure, data: pd.DataFrame, stem: Path) -> Path:
    """Equal figures give equal bytes: no dates."""
    png = stem.parent / f"{stem.name}.png"
    figure.savefig(png, metadata={"Software": None})
    Image.open(png).convert("RGB").quantize(COLOURS_KEPT, dither=Image.Dither.NONE).save(png, optimize=True)
    figure.savefig(stem.parent / f"{stem.name}.pdf", metadata={"CreationDate": None})
    plt.close(figure)
    data.to_csv(stem.parent / f"{stem.name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    return png
